// Methods of Proof: the ranges of hashes that are requested from peers and sent to them.

#include <algorithm>

#include "proof.h"

namespace silmaril {

int Proof::proved_height(File const& file, int piece) {
    int node = file.shape.first_piece() + piece - file.first_piece;
    int height = *exponent_of(file.shape.per_piece);
    for (; node > 0 && !file.nodes[std::size_t(node)]; node = (node - 1) / 2) ++height;
    return height;
}

std::optional<HashRange> Proof::granules_of(int piece) const {
    auto const number = m_layout.file_index_at_piece(lt::piece_index_t(piece));
    std::lock_guard const lock(m_mutex);
    auto const found = m_files.find(static_cast<int>(number));
    if (found == m_files.end()) return std::nullopt;
    int const granules = found->second.shape.per_piece / per_granule;
    if (granules < 2 || granules > max_granules) return std::nullopt;
    auto const index = std::int64_t(piece - found->second.first_piece) * granules;
    auto const proofs = proved_height(found->second, piece) - granule_height - 1;
    return HashRange{m_layout.root(number), granule_height, index, granules, proofs};
}

bool Proof::are_granules(int piece, lt::span<Hash const> hashes) const {
    auto const number = m_layout.file_index_at_piece(lt::piece_index_t(piece));
    std::lock_guard const lock(m_mutex);
    auto const found = m_files.find(static_cast<int>(number));
    if (found == m_files.end() || int(hashes.size()) * per_granule != found->second.shape.per_piece)
        return false;
    auto const& [shape, first_piece, nodes] = found->second;
    auto const& hash = nodes[std::size_t(shape.first_piece() + piece - first_piece)];
    return hash && *hash == root_of(hashes, int(hashes.size()));
}

std::optional<HashRange> Proof::range_of(int piece, int first, int last) const {
    auto const number = m_layout.file_index_at_piece(lt::piece_index_t(piece));
    std::lock_guard const lock(m_mutex);
    auto const found = m_files.find(static_cast<int>(number));
    if (found == m_files.end()) return std::nullopt;
    auto const& shape = found->second.shape;
    if (shape.per_piece <= per_granule) return std::nullopt;
    int width = per_granule;
    for (;;) {
        while (first / width != last / width) width *= 2;
        int const needed = (last / per_granule - first / per_granule + 1) * per_granule;
        if (width <= max_blocks && width <= 2 * needed) break;
        // The blocks lie in both halves of the subtree.
        last = first / width * width + width / 2 - 1;
        width = per_granule;
    }
    auto const leaf = std::int64_t(piece - found->second.first_piece) * shape.per_piece;
    auto const index = leaf + first / width * width;
    return HashRange{m_layout.root(number), 0, index, width, proved_height(found->second, piece) - 1};
}

std::optional<Proof::Subtree> Proof::subtree(HashRange const& range) const {
    bool const granules = range.base == granule_height;
    if ((range.base != 0 && !granules) || !fits(range)) return std::nullopt;
    std::lock_guard const lock(m_mutex);
    auto const& [shape, first_piece, nodes] = *find(range.root);
    if (granules &&
        (range.count < 2 || range.count > max_granules || range.count * per_granule != shape.per_piece))
        return std::nullopt;
    if (!granules && (range.count < per_granule || range.count > std::min(max_blocks, shape.per_piece)))
        return std::nullopt;
    auto const leaf = range.index << range.base;
    auto const count = int(range.count << range.base);
    int const index = int(leaf / shape.per_piece);
    if (index >= shape.pieces) return std::nullopt;
    int const piece = first_piece + index;
    int const first = int(leaf % shape.per_piece);
    if (!m_proved[std::size_t(piece)]) {
        auto const end = std::min(first + count, blocks.blocks_in(piece));
        auto const start = std::int64_t(first) * block_size;
        if (granules ? !blocks.has_granules(piece)
                     : !blocks.offers(piece, start, std::int64_t(end) * block_size - start))
            return std::nullopt;
    }
    int node = shape.first_piece() + index;
    if (!nodes[std::size_t(node)]) return std::nullopt;
    auto const inside = *exponent_of(shape.per_piece) - *exponent_of(count);
    Subtree subtree{piece,
                    granules,
                    first,
                    count,
                    shape.per_piece,
                    *nodes[std::size_t(node)],
                    int(std::min(range.uncles(), std::int64_t(inside))),
                    {}};
    for (auto left = range.uncles() - inside; left > 0; --left, node = (node - 1) / 2) {
        auto const& sibling = nodes[std::size_t(node % 2 == 0 ? node - 1 : node + 1)];
        if (!sibling) return std::nullopt;
        subtree.above.push_back(*sibling);
    }
    return subtree;
}

}  // namespace silmaril
