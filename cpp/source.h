// A peer from which blocks of a torrent, and their hashes, can be requested. Used on the network thread only.
#pragma once

#include <algorithm>
#include <functional>
#include <libtorrent/peer_connection.hpp>
#include <libtorrent/torrent_peer.hpp>
#include <memory>

#include "offers.h"
#include "proof.h"

namespace silmaril {

struct Source {
    std::shared_ptr<lt::peer_connection> connection;
    // Requests hashes. False if the peer cannot be asked now: it has not answered too many requests.
    std::function<bool(HashRange const&)> ask;
    // What it offers of pieces that it does not have. Only valid until the next peer can leave.
    Offers const* offers;

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
    // Whether the block can be requested from it.
    bool can_send(int piece, int block) const {
        auto const* const info = connection->peer_info_struct();
        return has(piece, block, block) && !connection->has_peer_choked() && info && !info->on_parole;
    }
    bool was_asked(lt::piece_block const& block) const {
        auto const is_it = [&block](lt::pending_block const& pending) { return pending.block == block; };
        auto const& sent = connection->download_queue();
        auto const& queued = connection->request_queue();
        return std::any_of(sent.begin(), sent.end(), is_it) ||
               std::any_of(queued.begin(), queued.end(), is_it);
    }
};

}  // namespace silmaril
