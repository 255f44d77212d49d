// Peers that do not send the blocks that were requested from them.
//
// A peer is silent while it owes blocks and sends none. A request is dropped if the peer has sent what was
// requested before it and much more, or if no answer comes for long. libtorrent would never repeat such a
// request to the same peer. Used on the network thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <libtorrent/peer_connection.hpp>
#include <map>
#include <memory>
#include <utility>
#include <vector>

namespace silmaril {

class Late {
public:
    using Peers = std::vector<std::shared_ptr<lt::peer_connection>>;

    // Forgets dropped requests for blocks that are `awaited`, so that they can be requested again. Must be
    // called once a second, with all connections of the torrent.
    void tick(Peers const& peers, std::function<bool(lt::piece_block const&)> const& awaited);
    bool is_silent(lt::peer_connection const& peer) const;
    void clear();

private:
    using Peer = lt::peer_connection const*;  // only compared
    struct Progress {
        std::int64_t received = 0;  // bytes of blocks
        int silent = 0;             // seconds without any, while blocks are requested
    };
    struct Owed {
        std::int64_t received = 0;  // see Progress, when the request was first seen
        std::int64_t ahead = 0;     // bytes that were requested before it
        int seconds = 0;
    };
    std::map<Peer, Progress> m_progress;
    std::map<std::pair<Peer, lt::piece_block>, Owed> m_owed;
};

}  // namespace silmaril
