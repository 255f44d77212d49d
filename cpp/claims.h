// Claims: the pieces that a reader fetches from full seeds now, as it tells the other readers by the BEP 10
// extension `silmaril_claims`. A claim is only a hint: it keeps a reader from requesting the piece from a
// seed, for a bounded time, and never delays a read that has waited for long.
//
// A message replaces the former one: 0 to `most` pieces, each 4 bytes, big endian. Anything else is ignored.
// Used on the network thread only.
#pragma once

#include <cstdint>
#include <libtorrent/span.hpp>
#include <optional>
#include <vector>

#include "guard.h"

namespace silmaril {

class Claims {
public:
    static constexpr char name[] = "silmaril_claims";
    static constexpr int our_id = 23;
    // Pieces of one message.
    static constexpr std::size_t most = 4;

    // The body of a message that claims these pieces.
    static std::vector<char> message(std::vector<int> const& pieces);

    // The peer's message. `expected`: how many milliseconds a piece probably takes.
    void replace(lt::span<char const> body, std::int64_t expected, Clock::time_point now);
    // The peer has the piece.
    void kept(int piece, Clock::time_point now);
    // Whether the peer claims the piece, and the claim counts.
    bool has(int piece, Clock::time_point now);

private:
    struct Claim {
        int piece;
        Clock::time_point since;
        Clock::time_point until;
        bool expired;  // it stays, so that the same claim does not begin again
    };
    void expire(Clock::time_point now);
    void missed(int claims, Clock::time_point now);

    std::vector<Claim> m_claims;
    std::int64_t m_took = 0;  // milliseconds for a claimed piece, lately; 0 before the first
    int m_misses = 0;         // claims in a row that were not kept in time
    Clock::time_point m_ignored_until{};
};

}  // namespace silmaril
