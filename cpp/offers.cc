#include "offers.h"

#include <algorithm>

#include "merkle.h"
#include "proof.h"

namespace silmaril {

namespace {

constexpr std::ptrdiff_t number_length = 4;

// The granules of a piece; 0 if no part of a piece of this length is offered.
int granules_in(int piece_length) {
    int const granules = piece_length / (per_granule * block_size);
    return granules >= 2 && granules <= Proof::max_granules ? granules : 0;
}

constexpr std::ptrdiff_t entry_length(int granules) { return number_length + (granules + 7) / 8; }

}  // namespace

Offers::Offers(int pieces, int piece_length) : m_count(pieces), m_granules(granules_in(piece_length)) {}

std::vector<std::vector<char>> Offers::messages(std::set<int> const& pieces, Blocks const& blocks,
                                                int piece_length) {
    std::vector<std::vector<char>> messages;
    int const granules = granules_in(piece_length);
    if (granules == 0) return messages;
    std::size_t entries = 0;
    for (int const piece : pieces) {
        if (entries == most_pieces) break;
        if (entries++ % most_entries == 0) messages.emplace_back();
        auto& body = messages.back();
        for (int shift = 24; shift >= 0; shift -= 8) body.push_back(char(piece >> shift));
        auto const start = body.size();
        body.resize(start + std::size_t(granules + 7) / 8);
        auto const offered = blocks.offered(piece);
        for (std::size_t at = 0; at < offered.size(); ++at)
            if (offered[at]) body[start + at / 8] |= char(0x80 >> at % 8);
    }
    return messages;
}

bool Offers::replace(lt::span<char const> body, Clock::time_point now) {
    if (!m_messages.spend(now)) return false;
    auto const length = entry_length(m_granules);
    if (m_granules == 0 || body.size() % length != 0 || body.size() / length > std::ptrdiff_t(most_entries))
        return false;
    if (!m_entries.spend(now, double(body.size() / length))) return false;
    for (; !body.empty(); body = body.subspan(length)) {
        std::uint32_t piece = 0;
        for (auto const byte : body.first(number_length)) piece = piece << 8 | std::uint8_t(byte);
        if (piece >= std::uint32_t(m_count)) break;
        std::vector<bool> granules(std::size_t(m_granules), false);
        for (int at = 0; at < m_granules; ++at)
            granules[std::size_t(at)] = (std::uint8_t(body[number_length + at / 8]) & 0x80 >> at % 8) != 0;
        if (std::find(granules.begin(), granules.end(), true) == granules.end())
            m_pieces.erase(int(piece));
        else if (m_pieces.size() < most_pieces || m_pieces.count(int(piece)) > 0)
            m_pieces[int(piece)] = std::move(granules);
    }
    return true;
}

bool Offers::has(int piece, int first, int last) const {
    auto const found = m_pieces.find(piece);
    if (found == m_pieces.end() || first < 0 || last < first || last >= m_granules * per_granule)
        return false;
    for (int at = first / per_granule; at <= last / per_granule; ++at)
        if (!found->second[std::size_t(at)]) return false;
    return true;
}

}  // namespace silmaril
