// A peer from which blocks of a torrent, and their hashes, can be requested. Used on the network thread only.
#pragma once

#include <algorithm>
#include <functional>
#include <libtorrent/peer_connection.hpp>
#include <libtorrent/torrent_peer.hpp>
#include <memory>
#include <vector>

#include "offers.h"
#include "proof.h"

namespace silmaril {

struct Source {
    std::shared_ptr<lt::peer_connection> connection;
    // Requests hashes. False if the peer cannot be asked now: it has not answered too many requests.
    std::function<bool(HashRange const&)> ask;
    // What it offers of pieces that it does not have.
    std::shared_ptr<Offers const> offers;

    bool has(int piece) const {
        return !connection->is_disconnecting() && connection->has_piece(lt::piece_index_t(piece));
    }
    // Whether it has these blocks of the piece.
    bool has(int piece, int first, int last) const {
        return has(piece) || (!connection->is_disconnecting() && offers->has(piece, first, last));
    }
    bool has_some(int piece) const {
        return has(piece) || (!connection->is_disconnecting() && offers->any(piece));
    }
    // Whether blocks can be requested from it now.
    bool is_ready() const {
        auto const* const info = connection->peer_info_struct();
        return !connection->is_disconnecting() && !connection->has_peer_choked() && info && !info->on_parole;
    }
};

// The connections of which each block of a piece was requested. `blocks`: of the piece.
using Asked = std::vector<std::vector<lt::peer_connection const*>>;

inline Asked asked_for(std::vector<Source> const& sources, int piece, std::size_t blocks) {
    Asked asked(blocks);
    for (auto const& source : sources) {
        auto const* const peer = source.connection.get();
        auto const add = [&](lt::pending_block const& pending) {
            auto const at = std::size_t(pending.block.block_index);
            if (pending.block.piece_index == lt::piece_index_t(piece) && at < blocks)
                asked[at].push_back(peer);
        };
        std::for_each(peer->download_queue().begin(), peer->download_queue().end(), add);
        std::for_each(peer->request_queue().begin(), peer->request_queue().end(), add);
    }
    return asked;
}

}  // namespace silmaril
