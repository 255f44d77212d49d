// Calls to rumoured hosts: those that only strangers have named, and that never answered.
//
// Any peer can name any address (BEP 11), and so can a node of the DHT and a tracker. Without limits one
// stranger could let a whole swarm scan a host that has nothing to do with it, or flood it with connection
// attempts.
// - A torrent calls an endpoint three times. The next call follows ten minutes later, and each wait is twice
//   as long as the one before, up to a day.
// - All torrents together call the endpoints of one address group (guard.h) 16 times, and then once in ten
//   minutes.
// - All torrents together make 128 calls, and then 16 a second.
// For an hour, no limit applies to a host that answers in one torrent, and its calls are forgotten: it may
// have left other torrents for which it is named.
//
// Used on the network thread only.
#pragma once

#include <cstdint>
#include <libtorrent/address.hpp>
#include <libtorrent/socket.hpp>
#include <utility>

#include "bucket.h"
#include "recent.h"

namespace silmaril {

class Rumours {
public:
    using Called = std::pair<std::uint64_t, lt::tcp::endpoint>;  // torrent and peer

    // Whether a torrent may call a peer now. If so, the call is counted.
    bool call(Called const& to, Clock::time_point now);
    // The peer, which this node has called, has completed a handshake.
    void answered(Called const& from, Clock::time_point now);
    // The call did not leave this host, or the peer has called this node.
    void forget(Called const& to);

private:
    struct Calls {
        int count = 0;
        Clock::time_point next;  // no call before
    };
    struct Group {
        Bucket calls{16, 1.0 / 600};
    };
    // With 16 calls a second an entry remains for a quarter of an hour, when strangers name as many addresses
    // as they can.
    static constexpr std::size_t max_entries = 16384;

    Recent<Called, Calls> m_calls{max_entries};
    Recent<lt::address, Group> m_groups{max_entries};
    Recent<lt::tcp::endpoint, Clock::time_point> m_answers{max_entries};  // the latest of each
    Bucket m_all{128, 16};
};

}  // namespace silmaril
