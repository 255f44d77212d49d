#include "hash_requests.h"

#include <algorithm>
#include <utility>

namespace silmaril {

namespace {

// Peers that are asked for the same hashes at a time.
constexpr int asked_at_once = 2;

bool speaks_v2(Source const& source) {
    auto const* const info = source.connection->peer_info_struct();
    return info && info->protocol_v2;
}

}  // namespace

std::optional<std::pair<int, int>> HashRequests::unasked(Proof const& proof, std::vector<bool> const& wanted,
                                                         int first) const {
    auto const is_unasked = [&](int block) {
        auto const at = std::size_t(block);
        return wanted[at] && !m_covered[at] && !proof.blocks.hash(m_piece, block);
    };
    int const count = int(wanted.size());
    while (first < count && !is_unasked(first)) ++first;
    if (first == count) return std::nullopt;
    int last = first;
    while (last + 1 < count && is_unasked(last + 1)) ++last;
    return std::pair(first, last);
}

void HashRequests::cover(Proof const& proof, HashRange const& range) {
    auto const first = range.index % proof.blocks_per_piece();
    auto const end = std::min(first + range.count, std::int64_t(m_covered.size()));
    for (auto block = first; block < end; ++block) m_covered[std::size_t(block)] = true;
}

HashRequests::Asked HashRequests::ask(Proof const& proof, std::vector<bool> const& wanted,
                                      std::vector<Source> const& sources,
                                      std::function<void(HashRange const&)> const& sent) {
    // Known hashes may be dropped before their blocks arrive.
    m_covered.assign(wanted.size(), false);
    for (auto const& [peer, range] : m_pending) cover(proof, range);
    bool const whole =
        std::any_of(sources.begin(), sources.end(), [this](Source const& one) { return one.has(m_piece); });
    bool const willing = std::any_of(sources.begin(), sources.end(), [this](Source const& one) {
        return one.has(m_piece) && m_refused.count(one.connection.get()) == 0;
    });
    bool later = false;
    bool refused = false;
    int from = 0;
    while (auto const blocks = unasked(proof, wanted, from)) {
        auto [first, last] = *blocks;
        // Peers that offer granules have no other hashes.
        if (!willing) last = std::min(last, first / per_granule * per_granule + per_granule - 1);
        auto const range = proof.range_of(m_piece, first, last);
        if (!range) return Asked::refused;
        auto const start = int(range->index % proof.blocks_per_piece());
        auto const end = std::min(start + int(range->count), int(wanted.size()));
        int asked = 0;
        bool busy = false;
        for (auto const& source : sources) {
            if (asked >= asked_at_once) break;
            if (!speaks_v2(source) || m_refused.count(source.connection.get()) > 0) continue;
            if (!source.has(m_piece, start, end - 1)) continue;
            if (!source.ask(*range)) {
                busy = true;
                continue;
            }
            sent(*range);
            m_pending.emplace_back(source.connection.get(), *range);
            ++asked;
        }
        if (asked > 0) cover(proof, *range);
        later |= asked == 0 && busy;
        refused |= asked == 0 && !busy && whole;
        from = end;
    }
    if (later) return Asked::later;
    return refused && m_pending.empty() ? Asked::refused : Asked::yes;
}

void HashRequests::ask_for_granules(Proof const& proof, Source const& source) {
    if (m_asked_for_granules || proof.blocks.has_granules(m_piece) || !source.has_some(m_piece)) return;
    auto const range = proof.granules_of(m_piece);
    m_asked_for_granules = range && source.ask(*range);
}

bool HashRequests::answered(Peer peer, HashRange const& range, bool proved) {
    auto const pending = std::find(m_pending.begin(), m_pending.end(), std::pair(peer, range));
    if (pending == m_pending.end()) return false;
    m_pending.erase(pending);
    if (!proved) m_refused.insert(peer);
    return true;
}

void HashRequests::give_up_pending() {
    for (auto const& [peer, range] : std::exchange(m_pending, {})) m_refused.insert(peer);
}

void HashRequests::peer_gone(Peer peer) {
    m_refused.erase(peer);
    auto const is_gone = [peer](auto const& pending) { return pending.first == peer; };
    m_pending.erase(std::remove_if(m_pending.begin(), m_pending.end(), is_gone), m_pending.end());
}

}  // namespace silmaril
