#include "pace.h"

#include <algorithm>

namespace silmaril {

namespace {

constexpr std::int64_t block_size = 16 * 1024;

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

// A peer is slow if it needs longer than this for what it was asked for: twice the usual time of a piece, but
// at least two seconds.
constexpr std::int64_t least_slowness = 2000;

// A queue is filled when there is room for so many requests.
constexpr int least_room = 8;

}  // namespace

void Pace::tick(Flow const& flow, std::int64_t const round_trip, Clock::time_point const now) {
    m_round_trip = round_trip;
    m_came = flow.received - m_received;
    m_received = flow.received;
    bool const sends = m_came > 0;
    if (m_came >= block_size) resume();
    if (sends && !is_paused(now)) m_pause = {};
    m_patience = flow.received > 0 ? silent_later : silent_at_first;
    if (flow.requests == 0) {
        m_silent = 0;
        return;
    }
    m_silent = sends ? 0 : m_silent + 1;
    m_rate = std::max(flow.rate, m_rate * 3 / 4);
}

bool Pace::reads(Clock::time_point const now) const { return now - m_announced < reads_for; }

void Pace::pause(Clock::time_point const now) {
    m_silent = 0;
    m_pause = std::clamp<Clock::duration>(2 * m_pause, first_pause, longest_pause);
    m_paused_until = now + m_pause;
}

bool Pace::is_slow(int const requests, std::int64_t const piece_time) const {
    if (m_rate == 0) return false;
    return requests * block_size * 1000 / m_rate > std::max(least_slowness, 2 * piece_time);
}

int Pace::queue(Flow const& flow) const {
    auto const rate = std::max(m_rate, flow.rate);
    auto const whole = rate * m_round_trip / 1'000'000 * 5 / 4 / block_size + spare_requests;
    auto const earned = first_requests + flow.received / block_size;
    // A slow peer holds what it sends in a second.
    auto const second = m_rate == 0 ? whole : first_requests + rate / block_size;
    return int(std::min({whole, earned, second}));
}

int Pace::room(Flow const& flow, Clock::time_point const now) const {
    if (is_paused(now)) return 0;
    int const room = queue(flow) - flow.requests;
    return room < least_room && flow.requests > least_room ? 0 : room;
}

}  // namespace silmaril
