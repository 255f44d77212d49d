// The hash trees of BEP 52, computed independently of libtorrent.
//
// A file's tree has a leaf for each block of 16 KiB, padded with zero hashes to a power of two. The nodes are
// numbered as in a flat array: node 0 is the root, the children of n are 2n+1 and 2n+2.
#pragma once

#include <libtorrent/file_storage.hpp>
#include <libtorrent/sha1_hash.hpp>
#include <libtorrent/span.hpp>
#include <optional>
#include <vector>

namespace silmaril {

constexpr int block_size = 0x4000;

// Blocks of a granule, and the height of its node. Granules of 64 KiB become readable one by one.
constexpr int per_granule = 4;
constexpr int granule_height = 2;

using Hash = lt::sha256_hash;

struct Shape {
    int blocks;
    int leaves;     // blocks, rounded up to a power of two
    int per_piece;  // leaves below a node of the piece layer
    int pieces;
    int width;  // nodes of the piece layer, with padding
    int nodes() const { return 2 * leaves - 1; }
    int kept() const { return 2 * width - 1; }  // number of nodes down to the piece layer
    int first_piece() const { return width - 1; }
    int first_block() const { return leaves - 1; }
};

// The shape of a file's tree; none for pad files and empty files. For a file of one piece the piece layer has
// one node, its root.
std::optional<Shape> shape_of(lt::file_storage const& files, lt::file_index_t file);

// The hash of a node from the hashes of its children.
Hash parent_of(Hash const& left, Hash const& right);

// The root of `blocks`, padded with zero hashes to `width` leaves. `width` must be a power of two and not
// less than the number of blocks.
Hash root_of(lt::span<Hash const> blocks, int width);

// The exponent of a power of two; none for any other number.
std::optional<int> exponent_of(int number);

}  // namespace silmaril
