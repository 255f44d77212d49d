// Requests for the hashes of the wanted blocks of one piece: which peers were asked, and which refused. Used
// on the network thread only.
#pragma once

#include <functional>
#include <libtorrent/peer_connection.hpp>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "proof.h"
#include "source.h"

namespace silmaril {

class HashRequests {
public:
    using Peer = lt::peer_connection const*;  // only compared

    explicit HashRequests(int piece) : m_piece(piece) {}

    enum class Asked {
        yes,      // or nothing is left to ask for, or no peer has the whole piece
        later,    // some peer cannot be asked now
        refused,  // no peer that has the piece will send the hashes
    };
    // Requests the hashes of wanted blocks that are neither known nor requested. Calls `sent` with each
    // request.
    Asked ask(Proof const& proof, std::vector<bool> const& wanted, std::vector<Source> const& sources,
              std::function<void(HashRange const&)> const& sent);
    // The first proved answer is followed by a request for the hashes of all granules of the piece, so that
    // this node can prove its granules to other peers.
    void ask_for_granules(Proof const& proof, Source const& source);

    // A peer has answered, or rejected. False if the request was not pending.
    bool answered(Peer peer, HashRange const& range, bool proved);
    // Counts peers that have not answered in time as peers that refuse.
    void give_up_pending();
    // A connection has ended. Another one may get the same address.
    void peer_gone(Peer peer);

private:
    // The first and the last block of a row of wanted blocks, from `first` on, whose hashes are neither known
    // nor requested.
    std::optional<std::pair<int, int>> unasked(Proof const& proof, std::vector<bool> const& wanted,
                                               int first) const;
    // Marks the blocks of a requested range in `m_covered`.
    void cover(Proof const& proof, HashRange const& range);

    int const m_piece;
    std::vector<bool> m_covered;  // blocks of pending requests
    std::vector<std::pair<Peer, HashRange>> m_pending;
    std::set<Peer> m_refused;  // peers that rejected a request, or did not answer
    bool m_asked_for_granules = false;
};

}  // namespace silmaril
