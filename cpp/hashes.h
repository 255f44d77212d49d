// Requests for piece hashes (BEP 52), in cases where libtorrent abandons a request.
//
// libtorrent sends such a request only after the peer has sent a message. If the peer then disconnects or is
// silent, libtorrent does not cancel the request: for 3 s it asks no other peer, and after that no peer that
// is silent. A reader would wait minutes for the hashes of bytes that are already present.
#pragma once

#include <libtorrent/peer_connection_handle.hpp>
#include <libtorrent/torrent_handle.hpp>
#include <optional>

#include "compat.h"
#include "proof.h"

namespace silmaril {

// The piece hashes of one torrent. Used on the network thread only.
class PieceHashes {
public:
    // `proof`: null for a torrent without metadata.
    PieceHashes(lt::torrent_handle handle, std::shared_ptr<Proof const> proof);

    // Must be called once a second, before `prompt` is called for each peer. If pieces are wanted, hashes are
    // missing and none has arrived for some seconds, some peers are prompted. The pauses between prompts grow
    // while no hash arrives.
    void tick();

    // Must be called once a second for each peer. If it is the peer's turn, makes it send a message by a
    // request for a block (16 KiB) that is not needed. Returns the piece whose first block was requested.
    std::optional<lt::piece_index_t> prompt(lt::peer_connection_handle const& peer);

    // Permits requests for missing hashes to other peers immediately. Called when a peer has disconnected.
    void forget_requests();

private:
    lt::torrent_handle const m_handle;  // weak
    std::shared_ptr<Proof const> const m_proof;
    int m_missing = 0;
    int m_idle = 0;  // seconds since a hash arrived or peers were prompted
    int m_pause;     // idle seconds after which peers are prompted
    // Peers come in the same order every second. The peers after the last prompted one are next.
    int m_turn = 0;
    int m_first = 0;
    int m_to_prompt = 0;
};

}  // namespace silmaril
