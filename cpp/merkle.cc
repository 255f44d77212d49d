#include "merkle.h"

#include <algorithm>
#include <libtorrent/hasher.hpp>

namespace silmaril {

std::optional<Shape> shape_of(lt::file_storage const& files, lt::file_index_t file) {
    if (files.pad_file_at(file) || files.file_size(file) == 0) return std::nullopt;
    Shape shape{};
    shape.blocks = files.file_num_blocks(file);
    shape.leaves = 1;
    while (shape.leaves < shape.blocks) shape.leaves *= 2;
    if (files.file_size(file) <= files.piece_length()) {
        shape.per_piece = shape.leaves;
        shape.pieces = shape.width = 1;
    } else {
        shape.per_piece = files.piece_length() / block_size;
        shape.pieces = files.file_num_pieces(file);
        shape.width = shape.leaves / shape.per_piece;
    }
    return shape;
}

Hash parent_of(Hash const& left, Hash const& right) {
    return lt::hasher256().update(left).update(right).final();
}

Hash root_of(lt::span<Hash const> blocks, int width) {
    std::vector<Hash> layer(blocks.begin(), blocks.end());
    Hash padding;  // root of a zero subtree with the height of `layer`
    for (; width > 1; width /= 2) {
        if (layer.size() % 2 != 0) layer.push_back(padding);
        for (std::size_t i = 0; i < layer.size() / 2; ++i)
            layer[i] = parent_of(layer[2 * i], layer[2 * i + 1]);
        layer.resize(layer.size() / 2);
        padding = parent_of(padding, padding);
    }
    return layer.empty() ? padding : layer[0];
}

std::optional<int> exponent_of(int number) {
    if (number <= 0 || (number & (number - 1)) != 0) return std::nullopt;
    int exponent = 0;
    while (number > 1 << exponent) ++exponent;
    return exponent;
}

}  // namespace silmaril
