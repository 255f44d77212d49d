#include "room.h"

#include <algorithm>
#include <libtorrent/session_handle.hpp>
#include <libtorrent/settings_pack.hpp>

namespace silmaril {

namespace {

// Bytes of all send buffers, and of the parts of them that a slow peer gets too.
constexpr std::int64_t max_bytes = 256 << 20;
constexpr std::int64_t max_low_bytes = 64 << 20;

// Bytes of one send buffer. With less than a block no peer would get anything.
constexpr std::int64_t most = 8 << 20;
constexpr std::int64_t most_low = 1 << 20;
constexpr std::int64_t least = 16 << 10;

// How many seconds a peer may need for its buffer: half a second more than libtorrent plans for.
constexpr std::int64_t seconds_planned = 2;

struct Watermarks {
    std::int64_t low;
    std::int64_t high;
};

Watermarks watermarks(int connections, std::int64_t stuck) {
    auto const n = std::max(connections, 1);
    auto const left = max_bytes - stuck;
    auto const low = std::clamp(std::min(left, max_low_bytes) / n, least, most_low);
    return {low, std::clamp(left / n, low, most)};
}

class SendRoom final : public lt::plugin {
public:
    explicit SendRoom(std::shared_ptr<Guard> guard) : m_guard(std::move(guard)) {}

    lt::feature_flags_t implemented_features() override { return tick_feature; }
    void added(lt::session_handle const& session) override { m_session = session; }
    void on_tick() override {
        auto const [low, high] = watermarks(m_guard->connections(), m_guard->stuck());
        // Small changes are not worth the work.
        bool const same = low == m_set.low && high >= m_set.high * 3 / 4 && high <= m_set.high * 5 / 4;
        if (same && (high == m_set.high || high < most)) return;
        m_set = {low, high};
        lt::settings_pack pack;
        pack.set_int(lt::settings_pack::send_buffer_low_watermark, int(low));
        pack.set_int(lt::settings_pack::send_buffer_watermark, int(high));
        m_session.apply_settings(std::move(pack));
    }

private:
    std::shared_ptr<Guard> const m_guard;
    lt::session_handle m_session;
    Watermarks m_set{most_low, most};  // as the session was started
};

}  // namespace

std::int64_t stuck_bytes(std::int64_t unsent, std::int64_t taken) {
    return std::max<std::int64_t>(unsent - taken * seconds_planned, 0);
}

bool is_short(Guard const& guard) { return guard.stuck() > max_bytes / 2; }

std::shared_ptr<lt::plugin> send_room(std::shared_ptr<Guard> guard) {
    return std::make_shared<SendRoom>(std::move(guard));
}

}  // namespace silmaril
