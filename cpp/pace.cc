#include "pace.h"

#include <algorithm>

#include "compat.h"

namespace silmaril {

namespace {

// A peer's first requests. Each block that it sends allows one more, so a peer that sends nothing holds few.
constexpr int first_requests = 4;

// Requests in addition to those that a round trip takes, so that the sender always has the next one.
constexpr int spare_requests = 32;

// A reader announces a piece at least this often.
constexpr auto reads_for = std::chrono::seconds(10);

// Seconds without a block after which a peer is silent: at first, and once it has sent some.
constexpr int silent_at_first = 2;
constexpr int silent_later = 4;

// A silent or slow peer is not asked for so long, then for twice as long, and so on.
constexpr auto first_pause = std::chrono::seconds(5);
constexpr auto longest_pause = std::chrono::seconds(80);

}  // namespace

int requests_to(lt::peer_connection const& peer) {
    return int(peer.download_queue().size() + peer.request_queue().size());
}

std::int64_t received(lt::peer_connection const& peer) { return peer.statistics().total_payload_download(); }

void Pace::tick(lt::peer_connection& peer, Clock::time_point const now) {
    m_round_trip = round_trip(peer);
    auto const total = received(peer);
    auto const came = total - m_received;
    m_received = total;
    bool const sends = came > 0;
    if (came >= lt::default_block_size) resume();
    if (sends && !is_paused(now)) m_pause = {};
    m_patience = total > 0 ? silent_later : silent_at_first;
    if (requests_to(peer) == 0) {
        m_silent = 0;
        return;
    }
    m_silent = sends ? 0 : m_silent + 1;
    std::int64_t const rate = peer.statistics().download_payload_rate();
    m_rate = std::max(rate, m_rate * 3 / 4);
}

bool Pace::reads(lt::peer_connection const& peer, Clock::time_point const now) const {
    return !peer.is_seed() && !peer.is_disconnecting() && now - m_announced < reads_for;
}

void Pace::pause(Clock::time_point const now) {
    m_silent = 0;
    m_pause = std::clamp<Clock::duration>(2 * m_pause, first_pause, longest_pause);
    m_paused_until = now + m_pause;
}

int Pace::queue(lt::peer_connection const& peer) const {
    auto const rate = std::max<std::int64_t>(m_rate, peer.statistics().download_payload_rate());
    auto const whole = rate * m_round_trip / 1'000'000 * 5 / 4 / lt::default_block_size + spare_requests;
    auto const earned = first_requests + received(peer) / lt::default_block_size;
    // A slow peer holds what it sends in a second.
    auto const second = m_rate == 0 ? whole : first_requests + rate / lt::default_block_size;
    return int(std::min({whole, earned, second}));
}

std::int64_t Pace::time_left(lt::peer_connection const& peer) const {
    if (m_rate == 0) return 0;
    return std::int64_t(requests_to(peer)) * lt::default_block_size * 1000 / m_rate;
}

}  // namespace silmaril
