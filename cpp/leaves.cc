#include "leaves.h"

#include <algorithm>
#include <utility>

namespace silmaril {

namespace {

// The hashes of blocks of a piece. Blocks behind the end of the file have the hash zero (BEP 52).
std::optional<std::vector<Hash>> read_blocks(Storage& storage, int piece, int first, int count) {
    std::vector<Hash> found(static_cast<std::size_t>(count));
    int const end = std::min(first + count, storage.proof->blocks.blocks_in(piece));
    for (int block = first; block < end; ++block)
        if (storage.hash_block(piece, block * block_size, found[std::size_t(block - first)]))
            return std::nullopt;
    return found;
}

// The saved hashes of the granules of a piece, padded; none if one is missing.
std::optional<std::vector<Hash>> saved_granules(Storage& storage, int piece, int width) {
    std::vector<Hash> found;
    int const blocks = storage.proof->blocks.blocks_in(piece);
    auto const start = std::int64_t(piece) * storage.layout.piece_length();
    for (int block = 0; block < width; block += per_granule) {
        if (block >= blocks) {
            found.push_back(root_of({}, per_granule));
            continue;
        }
        auto const hash = storage.files.granule(start + std::int64_t(block) * block_size);
        if (!hash) return std::nullopt;
        found.push_back(*hash);
    }
    return found;
}

// Computes the hashes of the granules of a piece, padded.
std::optional<std::vector<Hash>> read_granules(Storage& storage, int piece, int width) {
    std::vector<Hash> found;
    for (int block = 0; block < width; block += per_granule) {
        auto const hashes = read_blocks(storage, piece, block, per_granule);
        if (!hashes) return std::nullopt;
        found.push_back(root_of(*hashes, per_granule));
    }
    return found;
}

// The proof of a subtree inside its piece; none if the hashes do not lead to the hash of the piece.
std::optional<std::vector<Hash>> proof_of(Proof::Subtree const& tree, std::vector<Hash> layer,
                                          lt::span<Hash const> blocks) {
    for (int at = 0; at < tree.count; at += per_granule)
        layer[std::size_t((tree.first + at) / per_granule)] =
            root_of(blocks.subspan(at, per_granule), per_granule);
    std::vector<Hash> proof;
    int index = tree.first / per_granule;
    for (int width = tree.count / per_granule; layer.size() > 1; index /= 2) {
        if (width > 1)
            width /= 2;
        else if (int(proof.size()) < tree.inside)
            proof.push_back(layer[std::size_t(index ^ 1)]);
        for (std::size_t i = 0; i < layer.size() / 2; ++i)
            layer[i] = parent_of(layer[2 * i], layer[2 * i + 1]);
        layer.resize(layer.size() / 2);
    }
    if (layer[0] != tree.root) return std::nullopt;
    return proof;
}

// The answer from these hashes of granules; none if they do not lead to the hash of the piece.
std::optional<std::vector<Hash>> answer(Proof::Subtree const& tree, std::vector<Hash> const& granules,
                                        std::vector<Hash> const& blocks) {
    if (!tree.granules) {
        auto proof = proof_of(tree, granules, blocks);
        if (!proof) return std::nullopt;
        proof->insert(proof->begin(), blocks.begin(), blocks.end());
        return proof;
    }
    if (root_of(granules, int(granules.size())) != tree.root) return std::nullopt;
    return granules;
}

}  // namespace

std::optional<std::vector<Hash>> hashes_of(Storage& storage, HashRange const& range) {
    if (!storage.proof || !storage.layout.v2()) return std::nullopt;
    auto const tree = storage.proof->subtree(range);
    if (!tree) return std::nullopt;
    int const piece = tree->piece;
    std::vector<Hash> blocks;
    if (!tree->granules) {
        auto hashes = read_blocks(storage, piece, tree->first, tree->count);
        if (!hashes) return std::nullopt;
        blocks = std::move(*hashes);
    }
    std::optional<std::vector<Hash>> found;
    if (auto const saved = saved_granules(storage, piece, tree->width)) found = answer(*tree, *saved, blocks);
    if (!found) {
        if (!storage.proof->proved(piece)) return std::nullopt;
        auto granules = read_granules(storage, piece, tree->width);
        if (!granules) return std::nullopt;
        found = answer(*tree, *granules, blocks);
        if (!found) return std::nullopt;
        granules->resize(
            std::size_t((storage.proof->blocks.blocks_in(piece) + per_granule - 1) / per_granule));
        storage.files.save_granules(std::int64_t(piece) * storage.layout.piece_length(), *granules);
    }
    found->insert(found->end(), tree->above.begin(), tree->above.end());
    return found;
}

std::optional<std::vector<Hash>> granules_of(Storage& storage, int piece) {
    auto const range = storage.proof ? storage.proof->granules_of(piece) : std::nullopt;
    if (!range) return std::nullopt;
    auto saved = saved_granules(storage, piece, int(range->count) * per_granule);
    return saved && storage.proof->are_granules(piece, *saved) ? saved : std::nullopt;
}

}  // namespace silmaril
