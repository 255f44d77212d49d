#include "choice.h"

#include <algorithm>
#include <tuple>

namespace silmaril {

namespace {

// Readers whose number lengthens the time that a read waits.
constexpr int most_readers = 32;

// The shortest time of a piece, and the longest time that is shared out among readers, in milliseconds.
constexpr std::int64_t shortest_piece = 100;
constexpr std::int64_t longest_spread = 16'000;

// A reader that has a piece sends it to several readers at the same time, so each gets it so many times
// later.
constexpr std::int64_t readers_at_a_time = 4;

}  // namespace

std::uint64_t place(std::uint64_t const number, std::uint32_t const piece) {
    // The finalizer of splitmix64.
    auto x = number ^ piece;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
    return x ^ (x >> 31);
}

int choose(Choice const& choice, std::vector<WantedPiece> const& pieces) {
    int best = -1;
    std::tuple<bool, int, std::uint64_t> least;
    for (int i = 0; i < int(pieces.size()); ++i) {
        auto const& piece = pieces[i];
        bool const waits = piece.overdue >= 0;
        if (choice.untested && waits) continue;
        if (choice.seed) {
            if (waits && piece.overdue >= choice.patience) return i;
            if (piece.holders > 0 || piece.claimed) continue;
        }
        if (piece.begun && !(choice.seed && piece.hinted)) return i;
        if (piece.requested && choice.seed) continue;
        if (!choice.seed && waits) return i;
        std::tuple const rank(piece.hinted, choice.seed ? piece.before : piece.holders,
                              place(choice.number, piece.piece));
        if (best < 0 || rank < least) {
            best = i;
            least = rank;
        }
    }
    return best;
}

std::int64_t patience(int const readers, std::int64_t const piece_time, std::uint64_t const random) {
    auto const turn = std::max(piece_time, shortest_piece) * readers_at_a_time;
    auto const spread = std::min(turn * std::min(readers, most_readers), longest_spread);
    return spread / 4 + spread * std::int64_t(random % 1024) / 1024;
}

}  // namespace silmaril
