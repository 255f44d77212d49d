#include "claims.h"

#include <algorithm>

namespace silmaril {

namespace {

// How long a claim lasts: twice the time that the peer takes for a piece, within these bounds.
constexpr auto shortest = std::chrono::milliseconds(250);
constexpr auto longest = std::chrono::milliseconds(10'000);

// After so many claims in a row that were not kept in time, the peer's claims do not count for a while.
constexpr int max_misses = 3;
constexpr auto ignored = std::chrono::seconds(30);

}  // namespace

std::vector<char> Claims::message(std::vector<int> const& pieces) {
    std::vector<char> body;
    for (auto const piece : pieces)
        for (int shift = 24; shift >= 0; shift -= 8) body.push_back(char(std::uint32_t(piece) >> shift));
    return body;
}

void Claims::replace(lt::span<char const> const body, std::int64_t const expected,
                     Clock::time_point const now) {
    if (body.size() % 4 != 0 || std::size_t(body.size()) > 4 * most) return;
    std::vector<int> pieces;
    for (std::ptrdiff_t at = 0; at < body.size(); at += 4) {
        std::uint32_t piece = 0;
        for (int i = 0; i < 4; ++i) piece = piece << 8 | std::uint8_t(body[at + i]);
        pieces.push_back(int(piece & 0x7fffffff));
    }
    expire(now);
    auto const named = [&](Claim const& claim) {
        return std::find(pieces.begin(), pieces.end(), claim.piece) != pieces.end();
    };
    // `kept` removes the claims of pieces that the peer got.
    auto const left = std::partition(m_claims.begin(), m_claims.end(), named);
    missed(int(m_claims.end() - left), now);
    m_claims.erase(left, m_claims.end());
    auto const took = std::chrono::milliseconds(2 * (m_took > 0 ? m_took : expected));
    auto const until = now + std::clamp(took, shortest, longest);
    for (auto const piece : pieces) {
        auto const is_known = [piece](Claim const& claim) { return claim.piece == piece; };
        if (std::none_of(m_claims.begin(), m_claims.end(), is_known))
            m_claims.push_back({piece, now, until, false});
    }
}

void Claims::kept(int const piece, Clock::time_point const now) {
    auto const claim = std::find_if(m_claims.begin(), m_claims.end(),
                                    [piece](Claim const& one) { return one.piece == piece; });
    if (claim == m_claims.end()) return;
    auto const took = std::chrono::duration_cast<std::chrono::milliseconds>(now - claim->since).count();
    m_took = std::max(took, m_took - m_took / 8);
    m_misses = 0;
    m_claims.erase(claim);
}

bool Claims::has(int const piece, Clock::time_point const now) {
    expire(now);
    return now >= m_ignored_until && std::any_of(m_claims.begin(), m_claims.end(), [piece](Claim const& one) {
               return one.piece == piece && !one.expired;
           });
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
