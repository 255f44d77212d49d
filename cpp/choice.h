// The policy of coordinated reading (together.h): which piece is requested next from a peer, and how long a
// read leaves a piece to the other readers. Pure: no clock, no connection.
#pragma once

#include <cstdint>
#include <vector>

namespace silmaril {

// A wanted piece of which blocks can be requested from the peer.
struct WantedPiece {
    std::uint32_t piece;
    bool begun;      // this peer sends blocks of it
    bool requested;  // another peer that is not silent sends blocks of it; counts for seeds
    // Another reader fetches it from a seed, and its claim counts. If this reader has begun it, only the
    // claims of readers with a lower place matter, so that one of two readers continues.
    bool claimed;
    bool hinted;           // the same, and its claim does not count
    int holders;           // other readers that have it and can be asked
    int before;            // other readers that lack it and come before this one (`place`)
    std::int64_t overdue;  // for how many milliseconds a read has waited for it; negative if none waits
};

// What the choice depends on besides the pieces.
struct Choice {
    bool seed;              // the peer has every piece
    bool untested;          // it has sent nothing so far, and other peers have
    std::uint64_t number;   // the number of this reader
    std::int64_t patience;  // milliseconds; see `patience`
};

// The piece of which blocks are requested next, as an index of `pieces`, which are in the order in which they
// are read; negative for none.
int choose(Choice const& choice, std::vector<WantedPiece> const& pieces);

// For how many milliseconds an overdue piece is left to so many other readers, of which each takes
// `piece_time` milliseconds for a piece.
std::int64_t patience(int readers, std::int64_t piece_time, std::uint64_t random);

// The place of a reader in the order in which readers fetch a piece from a seed: the lowest is first.
std::uint64_t place(std::uint64_t number, std::uint32_t piece);

}  // namespace silmaril
