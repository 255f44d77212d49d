#include "spare.h"

#include <algorithm>
#include <libtorrent/aux_/session_interface.hpp>
#include <libtorrent/session_handle.hpp>
#include <libtorrent/torrent.hpp>

namespace silmaril {

namespace {

constexpr std::int64_t least = 64 << 10;
constexpr std::int64_t most = 1 << 20;
constexpr std::int64_t part = 16;

// Without other peers: bytes in the kernel for all wasters, and the highest limit.
constexpr std::int64_t max_queue = 2 << 20;
constexpr std::int64_t highest = 1 << 30;

class LimitWasters final : public lt::plugin {
public:
    explicit LimitWasters(std::shared_ptr<Spare> spare) : m_spare(std::move(spare)) {}

    lt::feature_flags_t implemented_features() override { return tick_feature; }
    void added(lt::session_handle const& session) override { m_session = session; }
    void on_tick() override {
        int const limit = m_spare->next_limit();
        lt::peer_class_info info{};
        info.label = "wasters";
        info.connection_limit_factor = 100;
        info.upload_limit = limit;
        info.upload_priority = info.download_priority = 1;
        m_session.set_peer_class(m_spare->wasters(), info);
    }

private:
    std::shared_ptr<Spare> const m_spare;
    lt::session_handle m_session;
};

}  // namespace

void Spare::limit(lt::peer_connection& peer, bool limited) const {
    auto const torrent = peer.associated_torrent().lock();
    if (!torrent || peer.has_class(m_wasters) == limited) return;
    auto& classes = torrent->session().peer_classes();
    if (limited)
        peer.add_class(classes, m_wasters);
    else
        peer.remove_class(classes, m_wasters);
}

void Spare::served(std::int64_t bytes, bool waits) {
    m_served += bytes;
    m_waits = m_waits || waits;
}

void Spare::spared(std::int64_t bytes, std::int64_t queue) {
    m_spared += bytes;
    m_queue += queue;
}

void Spare::wanted(lt::peer_connection& peer) {
    if (std::exchange(m_wanted, true)) return;
    auto const torrent = peer.associated_torrent().lock();
    auto* const wasters = torrent ? torrent->session().peer_classes().at(m_wasters) : nullptr;
    if (wasters) wasters->set_upload_limit(int(most));
}

int Spare::next_limit() {
    if (m_queue > max_queue)
        m_free = std::min(m_free, m_spared) * 2 / 3;
    else if (m_spared * 2 > m_free)
        m_free = std::min(m_free * 3 / 2, highest);
    m_free = std::max(m_free, most);
    auto const limit = m_waits ? std::clamp(m_served / part, least, most) : m_free;
    m_served = m_spared = m_queue = 0;
    m_wanted = m_waits;
    m_waits = false;
    return int(limit);
}

std::shared_ptr<lt::plugin> limit_wasters(std::shared_ptr<Spare> spare) {
    return std::make_shared<LimitWasters>(std::move(spare));
}

}  // namespace silmaril
