// What this node knows of the requests to one peer: how fast it sends, and how many requests it gets.
// Used on the network thread only.
#pragma once

#include <cstdint>
#include <libtorrent/peer_connection.hpp>

#include "guard.h"

namespace silmaril {

class Pace {
public:
    // The peer has announced a piece, or that it lacks some.
    void announced(Clock::time_point now) { m_announced = now; }
    // Must be called once a second.
    void tick(lt::peer_connection& peer, Clock::time_point now);
    // Whether the peer reads, as far as this node can see.
    bool reads(lt::peer_connection const& peer, Clock::time_point now) const;
    // Whether blocks are requested from it and none comes.
    bool is_silent() const { return m_silent > 0 && m_silent >= m_patience; }
    // Whether it is not asked for a while, because it was silent or slow.
    bool is_paused(Clock::time_point now) const { return now < m_paused_until; }
    // The peer is silent or slow: it is not asked for a while.
    void pause(Clock::time_point now);
    void resume() { m_paused_until = {}; }
    // How many requests are in flight at most.
    int queue(lt::peer_connection const& peer) const;
    // For how many milliseconds the peer will send what it was asked for. 0 if unknown.
    std::int64_t time_left(lt::peer_connection const& peer) const;

private:
    Clock::time_point m_announced{};
    std::int64_t m_rate = 0;        // bytes per second: the highest of the last seconds
    std::int64_t m_round_trip = 0;  // microseconds
    std::int64_t m_received = 0;    // bytes of blocks, a second ago
    int m_silent = 0;               // seconds without any, while blocks are requested
    int m_patience = 2;             // seconds after which it is silent
    Clock::duration m_pause{};      // the last one
    Clock::time_point m_paused_until{};
};

// Requests that were sent to the peer, or will be.
int requests_to(lt::peer_connection const& peer);
// Bytes of blocks that it has sent.
std::int64_t received(lt::peer_connection const& peer);

}  // namespace silmaril
