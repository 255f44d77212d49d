// Claims: the pieces that a reader fetches from full seeds now, as it reports to the other readers by the BEP
// 10 extension `silmaril_claims`. A claim is only a hint: it keeps a reader from requesting the piece from a
// seed, for a bounded time, and never delays a read that has waited for long.
//
// A message replaces the former one: a number of 8 bytes that the sender has chosen for the torrent, then 0
// to `most` pieces of 4 bytes; all big endian. The numbers give the order in which readers fetch a piece
// (choice.h). Any other message is ignored. Used on the network thread only.
#pragma once

#include <cstdint>
#include <libtorrent/span.hpp>
#include <optional>
#include <vector>

#include "bucket.h"

namespace silmaril {

class Claims {
public:
    static constexpr char name[] = "silmaril_claims";
    static constexpr int our_id = 23;
    // Pieces of one message.
    static constexpr std::size_t most = 4;

    // The body of a message.
    static std::vector<char> message(std::uint64_t number, std::vector<std::uint32_t> const& pieces);

    // Processes a message of the peer. `expected`: how many milliseconds a piece probably takes.
    void replace(lt::span<char const> body, std::int64_t expected, Clock::time_point now);
    // Records that the peer has announced the piece. If the piece was claimed, the claim was kept.
    void kept(std::uint32_t piece, Clock::time_point now);
    // The pieces that the peer claims, without expired claims. None if the peer does not keep its claims.
    std::vector<std::uint32_t> pieces(Clock::time_point now);
    // The peer's number; none before its first message.
    std::optional<std::uint64_t> number() const { return m_number; }

private:
    struct Claim {
        std::uint32_t piece;
        Clock::time_point since;
        Clock::time_point until;
        bool expired;  // it stays, so that the same claim does not begin again
    };
    void expire(Clock::time_point now);
    void missed(int claims, Clock::time_point now);

    std::optional<std::uint64_t> m_number;
    std::vector<Claim> m_claims;
    std::int64_t m_took = 0;  // milliseconds for a claimed piece, lately; 0 before the first
    int m_misses = 0;         // claims in a row that were not kept in time
    Clock::time_point m_ignored_until{};
    Bucket m_messages{128, 64};  // a node sends at most half as many
};

}  // namespace silmaril
