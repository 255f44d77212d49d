// Whether the peer of a connection still answers while pieces are wanted. Used on the network thread only.
#pragma once

#include <libtorrent/peer_connection_handle.hpp>

#include "guard.h"

namespace silmaril {

class Liveness {
public:
    explicit Liveness(lt::peer_connection_handle connection) : m_connection(std::move(connection)) {}

    // Records that a message has arrived.
    void heard() { m_last_heard = Clock::now(); }
    // Must be called once a second. Closes the connection and returns false if this host has lost its local
    // address, or if the peer's host is gone.
    bool tick();
    // Whether the peer has announced every piece and is silent: its program may have stopped while its host
    // still acknowledges.
    bool is_silent_seed() const;

private:
    void count_silence();
    bool has_address();
    bool probe();

    lt::peer_connection_handle m_connection;  // weak
    Clock::time_point m_last_heard = Clock::now();
    Clock::time_point m_probed;
    int m_silent_seconds = 0;  // counted only while pieces are wanted
};

}  // namespace silmaril
