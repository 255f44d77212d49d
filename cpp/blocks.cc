#include "blocks.h"

#include <algorithm>
#include <utility>

namespace silmaril {

namespace {

// Most hashes of one torrent: 512 KiB, for 256 MiB of data.
constexpr std::size_t max_hashes = 16 * 1024;

}  // namespace

Blocks::Blocks(lt::file_storage const& layout) : m_layout(layout) {}

int Blocks::blocks_in(int piece) const { return m_layout.blocks_in_piece2(lt::piece_index_t(piece)); }

void Blocks::learn(int piece, int first, lt::span<Hash const> hashes) {
    std::lock_guard const lock(m_mutex);
    auto const [entry, fresh] = m_hashes.try_emplace(piece);
    if (fresh) m_learned.push_back(piece);
    for (int i = 0; i < int(hashes.size()); ++i)
        m_count += entry->second.insert_or_assign(first + i, hashes[i]).second;
    while (m_count > max_hashes && m_learned.size() > 1) {
        auto const oldest = m_hashes.find(m_learned.front());
        m_count -= oldest->second.size();
        m_hashes.erase(oldest);
        m_learned.pop_front();
    }
}

std::optional<Hash> Blocks::hash(int piece, int block) const {
    std::lock_guard const lock(m_mutex);
    auto const of_piece = m_hashes.find(piece);
    if (of_piece == m_hashes.end()) return std::nullopt;
    auto const found = of_piece->second.find(block);
    return found == of_piece->second.end() ? std::nullopt : std::optional<Hash>(found->second);
}

bool Blocks::knows(int piece) const {
    std::lock_guard const lock(m_mutex);
    return m_hashes.count(piece) > 0;
}

void Blocks::watch(int piece, bool whole) {
    std::lock_guard const lock(m_mutex);
    if (piece < 0 || piece >= m_layout.num_pieces()) return;
    auto& kept = m_kept[piece];
    kept.blocks.resize(std::size_t(blocks_in(piece)));
    kept.confirmed.resize(kept.blocks.size());
    kept.whole = kept.whole || whole;
}

bool Blocks::is_whole(int piece) const {
    std::lock_guard const lock(m_mutex);
    auto const found = m_kept.find(piece);
    return found != m_kept.end() && found->second.whole;
}

void Blocks::end_whole(int piece) {
    std::lock_guard const lock(m_mutex);
    auto const found = m_kept.find(piece);
    if (found == m_kept.end()) return;
    found->second.whole = false;
    found->second.granules = {};
}

bool Blocks::keep(int piece, int block) {
    std::lock_guard const lock(m_mutex);
    auto const found = m_kept.find(piece);
    if (found == m_kept.end() || m_barred.count(piece) > 0) return false;
    if (std::size_t(block) >= found->second.blocks.size()) return false;
    found->second.blocks[std::size_t(block)] = true;
    return true;
}

void Blocks::drop(int piece, int block) {
    std::lock_guard const lock(m_mutex);
    auto const found = m_kept.find(piece);
    if (found == m_kept.end()) return;
    found->second.blocks[std::size_t(block)] = found->second.confirmed[std::size_t(block)] = false;
    if (found->second.granules_saved) m_changed_offers.insert(piece);
}

void Blocks::confirm(int piece, int block, std::function<void(int first, int count)> const& report) {
    std::lock_guard const lock(m_mutex);
    auto const found = m_kept.find(piece);
    // The piece may have been barred since.
    if (found == m_kept.end() || !found->second.blocks[std::size_t(block)]) return;
    auto& confirmed = found->second.confirmed;
    if (confirmed[std::size_t(block)]) return;
    confirmed[std::size_t(block)] = true;
    int const first = block / per_granule * per_granule;
    int const end = std::min(first + per_granule, int(confirmed.size()));
    if (std::find(confirmed.begin() + first, confirmed.begin() + end, false) != confirmed.begin() + end)
        return;
    if (found->second.granules_saved) m_changed_offers.insert(piece);
    report(first, end - first);
}

void Blocks::unless_barred(int piece, std::function<void()> const& report) const {
    std::lock_guard const lock(m_mutex);
    if (m_barred.count(piece) == 0) report();
}

void Blocks::restore(int piece, int first, int count) {
    if (piece < 0 || piece >= m_layout.num_pieces() || first < 0 || count < 0) return;
    watch(piece);
    for (int block = first; block < std::min(first + count, blocks_in(piece)); ++block)
        if (keep(piece, block)) confirm(piece, block, [](int, int) {});
}

bool Blocks::keeps(int piece, int block) const {
    std::lock_guard const lock(m_mutex);
    auto const found = m_kept.find(piece);
    return found != m_kept.end() && block >= 0 && std::size_t(block) < found->second.blocks.size() &&
           found->second.blocks[std::size_t(block)];
}

bool Blocks::keeps_any(int piece) const {
    std::lock_guard const lock(m_mutex);
    auto const found = m_kept.find(piece);
    if (found == m_kept.end()) return false;
    auto const& blocks = found->second.blocks;
    return std::find(blocks.begin(), blocks.end(), true) != blocks.end();
}

bool Blocks::keeps_all(int piece) const {
    std::lock_guard const lock(m_mutex);
    auto const found = m_kept.find(piece);
    if (found == m_kept.end()) return false;
    auto const& confirmed = found->second.confirmed;
    return std::find(confirmed.begin(), confirmed.end(), false) == confirmed.end();
}

std::vector<bool> Blocks::kept(int piece) const {
    std::lock_guard const lock(m_mutex);
    auto const found = m_kept.find(piece);
    return found == m_kept.end() ? std::vector<bool>() : found->second.confirmed;
}

void Blocks::forget(int piece) {
    std::lock_guard const lock(m_mutex);
    erase(piece);
}

void Blocks::complete(int piece) {
    std::lock_guard const lock(m_mutex);
    m_kept.erase(piece);
    m_changed_offers.erase(piece);
}

void Blocks::erase(int piece) {
    auto const found = m_kept.find(piece);
    if (found == m_kept.end()) return;
    if (found->second.granules_saved) m_changed_offers.insert(piece);
    m_kept.erase(found);
}

std::vector<int> Blocks::pieces() const {
    std::lock_guard const lock(m_mutex);
    std::vector<int> pieces;
    for (auto const& [piece, kept] : m_kept) pieces.push_back(piece);
    return pieces;
}

void Blocks::granules_saved(int piece, std::vector<Hash> const& granules) {
    std::lock_guard const lock(m_mutex);
    auto const found = m_kept.find(piece);
    if (found == m_kept.end()) return;
    found->second.granules_saved = true;
    if (found->second.whole) found->second.granules = granules;
    m_changed_offers.insert(piece);
}

std::optional<Hash> Blocks::granule(int piece, int granule) const {
    std::lock_guard const lock(m_mutex);
    auto const found = m_kept.find(piece);
    if (found == m_kept.end() || std::size_t(granule) >= found->second.granules.size()) return std::nullopt;
    return found->second.granules[std::size_t(granule)];
}

bool Blocks::has_granules(int piece) const {
    std::lock_guard const lock(m_mutex);
    auto const found = m_kept.find(piece);
    return found != m_kept.end() && found->second.granules_saved;
}

bool Blocks::is_offered(Kept const& kept, int granule) {
    auto const count = int(kept.confirmed.size());
    int const first = granule * per_granule;
    if (!kept.granules_saved || first >= count) return false;
    auto const end = kept.confirmed.begin() + std::min(first + per_granule, count);
    return std::find(kept.confirmed.begin() + first, end, false) == end;
}

std::vector<bool> Blocks::offered_of(Kept const& kept) {
    if (!kept.granules_saved) return {};
    std::vector<bool> granules;
    for (int first = 0; first < int(kept.confirmed.size()); first += per_granule)
        granules.push_back(is_offered(kept, first / per_granule));
    auto const any = std::find(granules.begin(), granules.end(), true) != granules.end();
    return any ? granules : std::vector<bool>();
}

std::vector<bool> Blocks::offered(int piece) const {
    std::lock_guard const lock(m_mutex);
    auto const found = m_kept.find(piece);
    return found == m_kept.end() ? std::vector<bool>() : offered_of(found->second);
}

std::set<int> Blocks::offered_pieces() const {
    std::lock_guard const lock(m_mutex);
    std::set<int> pieces;
    for (auto const& [piece, kept] : m_kept)
        if (!offered_of(kept).empty()) pieces.insert(piece);
    return pieces;
}

bool Blocks::offers(std::int64_t piece, std::int64_t start, std::int64_t length) const {
    if (piece < 0 || piece >= m_layout.num_pieces() || start < 0 || length <= 0) return false;
    auto const end = start + length;
    auto const whole = std::int64_t(blocks_in(int(piece))) * block_size;
    if (start >= whole || end > whole) return false;
    std::lock_guard const lock(m_mutex);
    auto const found = m_kept.find(int(piece));
    if (found == m_kept.end()) return false;
    constexpr std::int64_t granule_size = per_granule * block_size;
    for (auto at = start / granule_size; at * granule_size < end; ++at)
        if (!is_offered(found->second, int(at))) return false;
    return true;
}

std::set<int> Blocks::changed_offers() {
    std::lock_guard const lock(m_mutex);
    return std::exchange(m_changed_offers, {});
}

std::uint64_t Blocks::bar(int piece) {
    std::lock_guard const lock(m_mutex);
    erase(piece);
    return m_barred[piece] = ++m_bars;
}

std::uint64_t Blocks::bar_of(int piece) const {
    std::lock_guard const lock(m_mutex);
    auto const found = m_barred.find(piece);
    return found == m_barred.end() ? 0 : found->second;
}

bool Blocks::admit(int piece, std::uint64_t bar) {
    std::lock_guard const lock(m_mutex);
    auto const found = m_barred.find(piece);
    if (found != m_barred.end() && found->second != bar) return false;
    if (found != m_barred.end()) m_barred.erase(found);
    return true;
}

bool Blocks::is_barred(int piece) const {
    std::lock_guard const lock(m_mutex);
    return m_barred.count(piece) > 0;
}

}  // namespace silmaril
