// Hashes of pieces (BEP 52) that are asked of peers, where libtorrent leaves a request to itself.
//
// It asks a peer when that has said something. It does not take back what it has asked a peer that goes or is
// silent; for 3 s it asks nobody else, and then nobody who has nothing to say. A reader would wait for
// minutes, for hashes of bytes that are all here.
#pragma once

#include <libtorrent/peer_connection_handle.hpp>
#include <libtorrent/torrent_handle.hpp>
#include <optional>

#include "compat.h"
#include "proof.h"

namespace silmaril {

// The piece hashes of one torrent. To be used on the network thread.
class PieceHashes {
public:
    // `proof`: null for a torrent without metadata.
    PieceHashes(lt::torrent_handle handle, std::shared_ptr<Proof const> proof);

    // Once a second, before the peers' turn: sees whether any came. Where pieces are wanted, hashes are
    // missing and none has come for some seconds, some peers are to be prompted; less and less often while
    // none comes.
    void tick();

    // A peer's turn. It is made to say something by a request for a block, 16 KiB, that is not needed.
    // Returns the piece whose first block it was.
    std::optional<lt::piece_index_t> prompt(lt::peer_connection_handle const& peer);

    // A peer is gone: what has not come may be asked of another at once.
    void forget_requests();

private:
    lt::torrent_handle const m_handle;  // weak
    std::shared_ptr<Proof const> const m_proof;
    int m_missing = 0;
    int m_idle = 0;  // seconds since one came, or peers were prompted
    int m_pause;     // seconds until they are prompted again
    // Peers have their turns in the same order every second: those who come after the last one prompted are
    // next.
    int m_turn = 0;
    int m_first = 0;
    int m_to_prompt = 0;
};

}  // namespace silmaril
