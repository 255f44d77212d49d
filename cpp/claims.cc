#include "claims.h"

#include <algorithm>

namespace silmaril {

namespace {

// How long a claim lasts: twice the time that the peer needs for a piece, within these bounds.
constexpr auto shortest = std::chrono::milliseconds(250);
constexpr auto longest = std::chrono::milliseconds(10'000);

// After so many claims in a row that were not kept in time, the peer's claims do not count for a while.
constexpr int max_misses = 4;
constexpr auto ignored = std::chrono::seconds(30);

constexpr std::ptrdiff_t number_length = 8;
constexpr std::ptrdiff_t piece_length = 4;

void write(std::vector<char>& to, std::uint64_t const number, std::ptrdiff_t const length) {
    for (auto shift = 8 * (length - 1); shift >= 0; shift -= 8) to.push_back(char(number >> shift));
}

std::uint64_t read(lt::span<char const> const bytes) {
    std::uint64_t number = 0;
    for (char const byte : bytes) number = number << 8 | std::uint8_t(byte);
    return number;
}

}  // namespace

std::vector<char> Claims::message(std::uint64_t const number, std::vector<std::uint32_t> const& pieces) {
    std::vector<char> body;
    write(body, number, number_length);
    for (auto const piece : pieces) write(body, piece, piece_length);
    return body;
}

void Claims::replace(lt::span<char const> body, std::int64_t const expected, Clock::time_point const now) {
    if (!m_messages.spend(now)) return;
    if (body.size() < number_length || (body.size() - number_length) % piece_length != 0) return;
    if (body.size() - number_length > piece_length * std::ptrdiff_t(most)) return;
    auto const number = read(body.first(number_length));
    // A number that changes would let a peer be the first for every piece.
    if (m_number && *m_number != number) return;
    m_number = number;
    std::vector<std::uint32_t> pieces;
    for (body = body.subspan(number_length); !body.empty(); body = body.subspan(piece_length))
        pieces.push_back(std::uint32_t(read(body.first(piece_length))));
    expire(now);
    auto const named = [&](Claim const& claim) {
        return std::find(pieces.begin(), pieces.end(), claim.piece) != pieces.end();
    };
    // `kept` removes the claims of pieces that the peer got.
    auto const left = std::partition(m_claims.begin(), m_claims.end(), named);
    missed(int(std::count_if(left, m_claims.end(), [](Claim const& claim) { return !claim.expired; })), now);
    m_claims.erase(left, m_claims.end());
    auto const took = std::chrono::milliseconds(2 * (m_took > 0 ? m_took : expected));
    auto const until = now + std::clamp(took, shortest, longest);
    for (auto const piece : pieces) {
        auto const is_known = [piece](Claim const& claim) { return claim.piece == piece; };
        if (std::none_of(m_claims.begin(), m_claims.end(), is_known))
            m_claims.push_back({piece, now, until, false});
    }
}

void Claims::kept(std::uint32_t const piece, Clock::time_point const now) {
    auto const claim = std::find_if(m_claims.begin(), m_claims.end(),
                                    [piece](Claim const& one) { return one.piece == piece; });
    if (claim == m_claims.end()) return;
    auto const took = std::chrono::duration_cast<std::chrono::milliseconds>(now - claim->since).count();
    m_took = std::max(took, m_took - m_took / 8);
    m_misses = 0;
    m_claims.erase(claim);
}

std::vector<std::uint32_t> Claims::pieces(Clock::time_point const now) {
    expire(now);
    std::vector<std::uint32_t> pieces;
    if (now < m_ignored_until) return pieces;
    for (auto const& claim : m_claims)
        if (!claim.expired) pieces.push_back(claim.piece);
    return pieces;
}

void Claims::expire(Clock::time_point const now) {
    for (auto& claim : m_claims) {
        if (claim.expired || now < claim.until) continue;
        claim.expired = true;
        missed(1, now);
    }
}

void Claims::missed(int const claims, Clock::time_point const now) {
    m_misses += claims;
    if (m_misses < max_misses) return;
    m_misses = 0;
    m_ignored_until = now + ignored;
}

}  // namespace silmaril
