#include "leaves.h"

#include <algorithm>

namespace silmaril {

namespace {

constexpr int per_granule = 4;

// The hashes of blocks of a piece. Blocks behind the end of the file have the hash zero (BEP 52).
std::optional<std::vector<Hash>> read_blocks(Storage& storage, int piece, int first, int count) {
    std::vector<Hash> found(static_cast<std::size_t>(count));
    int const end = std::min(first + count, storage.proof->blocks.blocks_in(piece));
    for (int block = first; block < end; ++block)
        if (storage.hash_block(piece, block * block_size, found[std::size_t(block - first)]))
            return std::nullopt;
    return found;
}

// The hashes of the granules of a piece: saved ones, or computed ones. None if one is missing.
std::optional<std::vector<Hash>> granules_of(Storage& storage, Proof::Subtree const& tree, bool saved) {
    std::vector<Hash> found;
    int const blocks = storage.proof->blocks.blocks_in(tree.piece);
    auto const start = std::int64_t(tree.piece) * storage.layout.piece_length();
    for (int block = 0; block < tree.width; block += per_granule) {
        if (block >= blocks) {
            found.push_back(root_of({}, per_granule));
        } else if (saved) {
            auto const hash = storage.files.granule(start + std::int64_t(block) * block_size);
            if (!hash) return std::nullopt;
            found.push_back(*hash);
        } else {
            auto const hashes = read_blocks(storage, tree.piece, block, per_granule);
            if (!hashes) return std::nullopt;
            found.push_back(root_of(*hashes, per_granule));
        }
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

}  // namespace

std::optional<std::vector<Hash>> block_hashes(Storage& storage, HashRange const& range) {
    if (!storage.proof || !storage.layout.v2()) return std::nullopt;
    auto const tree = storage.proof->subtree(range);
    if (!tree) return std::nullopt;
    auto hashes = read_blocks(storage, tree->piece, tree->first, tree->count);
    if (!hashes) return std::nullopt;
    std::optional<std::vector<Hash>> proof;
    if (auto const saved = granules_of(storage, *tree, true)) proof = proof_of(*tree, *saved, *hashes);
    if (!proof) {
        auto granules = granules_of(storage, *tree, false);
        if (!granules) return std::nullopt;
        proof = proof_of(*tree, *granules, *hashes);
        if (!proof) return std::nullopt;
        granules->resize(
            std::size_t((storage.proof->blocks.blocks_in(tree->piece) + per_granule - 1) / per_granule));
        storage.files.save_granules(std::int64_t(tree->piece) * storage.layout.piece_length(), *granules);
    }
    hashes->insert(hashes->end(), proof->begin(), proof->end());
    hashes->insert(hashes->end(), tree->above.begin(), tree->above.end());
    return hashes;
}

}  // namespace silmaril
