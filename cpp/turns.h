// Requests of peers for the hashes of blocks, which wait for their turn.
//
// A request of 53 bytes costs this node up to a megabyte, or a piece, of reading and hashing (leaves.h). So
// only a part of the disk threads works on them, and the other threads serve uploads. The senders take turns,
// so a peer that sends many requests delays only its own. Used on the network thread only.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <libtorrent/socket.hpp>
#include <map>
#include <memory>

namespace silmaril {

class Turns : public std::enable_shared_from_this<Turns> {
public:
    // An address group (guard.h) and port 0. For hosts that no group limit applies to, the remote endpoint.
    using Sender = lt::tcp::endpoint;
    using Done = std::function<void()>;
    // Starts the work, which must call `done` later. False if the work is not needed any more.
    using Start = std::function<bool(Done done)>;

    // `at_once`: requests that are worked on at a time.
    explicit Turns(int at_once) : m_at_once(at_once) {}

    // Starts the work when it is the sender's turn. False, and does nothing, if too many requests of the
    // sender wait.
    bool add(Sender const& sender, Start start);

    // Most waiting requests of a sender. A node of silmaril has 32 in flight on a connection.
    static constexpr std::size_t max_waiting = 128;

private:
    void run();

    int const m_at_once;
    int m_running = 0;
    Sender m_latest;                                // had the latest turn
    std::map<Sender, std::deque<Start>> m_waiting;  // no queue is empty
};

}  // namespace silmaril
