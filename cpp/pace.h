// The pace of one peer: how fast it sends, and how many requests it gets. Pure: no clock, no connection. Used
// on the network thread only.
#pragma once

#include <cstdint>

#include "bucket.h"

namespace silmaril {

// The traffic of a peer: the requests to it, and the blocks that it has sent (`flow_of` in flow.h).
struct Flow {
    int requests;           // sent to the peer, or waiting to be sent
    std::int64_t received;  // bytes of blocks
    std::int64_t rate;      // bytes of blocks per second, averaged over a few seconds
};

class Pace {
public:
    // Records that the peer has announced a piece, or that it lacks some.
    void announced(Clock::time_point now) { m_announced = now; }
    // Must be called once a second. `round_trip`: microseconds; 0 if unknown.
    void tick(Flow const& flow, std::int64_t round_trip, Clock::time_point now);
    // Whether a peer that lacks pieces reads, as far as this node can see.
    bool reads(Clock::time_point now) const;
    // Bytes of blocks that it sent in the second before the last tick.
    std::int64_t came() const { return m_came; }
    // Whether blocks are requested from it and none arrives.
    bool is_silent() const { return m_silent > 0 && m_silent >= m_patience; }
    // Whether it is not asked for a while, because it was silent or slow.
    bool is_paused(Clock::time_point now) const { return now < m_paused_until; }
    // Stops requests to a peer that is silent or slow, for a while.
    void pause(Clock::time_point now);
    void resume() { m_paused_until = {}; }
    // Whether it needs much longer for what it was asked for than for a piece, which usually takes
    // `piece_time` milliseconds.
    bool is_slow(int requests, std::int64_t piece_time) const;
    // Whether it is neither silent nor paused nor slow.
    bool keeps_up(int requests, std::int64_t piece_time, Clock::time_point now) const {
        return !is_silent() && !is_paused(now) && !is_slow(requests, piece_time);
    }
    // How many requests are in flight at most.
    int queue(Flow const& flow) const;
    // How many more requests are sent now. 0 or negative for none.
    int room(Flow const& flow, Clock::time_point now) const;

private:
    Clock::time_point m_announced{};
    std::int64_t m_rate = 0;        // bytes per second: the highest of the last seconds
    std::int64_t m_round_trip = 0;  // microseconds
    std::int64_t m_received = 0;    // bytes of blocks, a second ago
    std::int64_t m_came = 0;        // in the last second
    int m_silent = 0;               // seconds without any, while blocks are requested
    int m_patience = 2;             // seconds after which it is silent
    Clock::duration m_pause{};      // the last one
    Clock::time_point m_paused_until{};
};

}  // namespace silmaril
