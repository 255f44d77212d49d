#include "layers.h"

#include <algorithm>
#include <libtorrent/bdecode.hpp>
#include <libtorrent/bencode.hpp>
#include <libtorrent/entry.hpp>
#include <map>
#include <stdexcept>
#include <string>

#include "merkle.h"

namespace silmaril {

namespace {

constexpr int hash_size = int(lt::sha256_hash::size());
// Most pieces of a torrent: libtorrent's own limit for magnets.
constexpr int max_pieces = 0x200000;
// Most tokens of a bencoded document. A file in the tree needs about ten.
constexpr int max_tokens = 4000000;

// The shape of a file that needs a piece layer; none for a file of one piece, whose root is the hash of the
// piece.
std::optional<Shape> layered(lt::file_storage const& files, lt::file_index_t file) {
    auto const shape = shape_of(files, file);
    return shape && shape->pieces > 1 ? shape : std::nullopt;
}

// Known nodes down to the piece layer, by index.
using Nodes = std::map<int, lt::sha256_hash>;

Nodes known_nodes(lt::add_torrent_params const& saved, lt::file_index_t file, Shape const& shape) {
    Nodes nodes;
    if (file >= saved.merkle_trees.end_index()) return nodes;
    auto const& tree = saved.merkle_trees[file];
    std::vector<bool> mask;
    if (file < saved.merkle_tree_mask.end_index()) mask = saved.merkle_tree_mask[file];
    if (mask.empty()) mask.assign(tree.size(), true);
    if (int(mask.size()) != shape.nodes()) return nodes;

    std::vector<lt::sha256_hash> blocks;
    std::size_t next = 0;
    for (int node = 0; node < shape.nodes() && next < tree.size(); ++node) {
        if (!mask[std::size_t(node)]) continue;
        auto const& hash = tree[next++];
        if (node < shape.kept()) nodes.emplace(node, hash);
        int const block = node - shape.first_block();
        if (block >= 0 && block < shape.blocks && block == int(blocks.size())) blocks.push_back(hash);
    }
    // For a complete file libtorrent saves only the hashes of the blocks.
    if (int(blocks.size()) == shape.blocks && shape.per_piece > 1) {
        nodes.clear();
        for (int piece = 0; piece < shape.pieces; ++piece) {
            int const first = piece * shape.per_piece;
            int const count = std::min(shape.per_piece, shape.blocks - first);
            nodes.emplace(shape.first_piece() + piece,
                          root_of(lt::span<Hash const>(blocks).subspan(first, count), shape.per_piece));
        }
    }
    // If the piece layer is complete, the nodes above it are redundant, and libtorrent accepts only the
    // layer.
    auto const first = nodes.lower_bound(shape.first_piece());
    auto const end = nodes.lower_bound(shape.first_piece() + shape.pieces);
    if (std::distance(first, end) == shape.pieces) return Nodes(first, end);
    return nodes;
}

bool whole_layer(Nodes const& nodes, Shape const& shape) {
    return int(nodes.size()) == shape.pieces && nodes.begin()->first == shape.first_piece();
}

}  // namespace

Metainfo parse_metainfo(lt::span<char const> bytes) {
    lt::error_code error;
    auto const document = lt::bdecode(bytes, error, nullptr, 100, max_tokens);
    if (error) throw std::runtime_error("not bencoded: " + error.message());
    auto const info =
        document.type() == lt::bdecode_node::dict_t ? document.dict_find_dict("info") : lt::bdecode_node();
    if (!info) throw std::runtime_error("there is no info dictionary");

    Metainfo result;
    result.info = std::make_shared<lt::torrent_info>(lt::info_hash_t());
    if (!result.info->parse_info_section(info, error, max_pieces)) throw std::runtime_error(error.message());
    if (!result.info->v2()) throw std::runtime_error("it is not a version 2 torrent");

    result.all_layers = true;
    auto const layers = document.dict_find_dict("piece layers");
    auto const& files = result.info->orig_files();
    lt::aux::vector<lt::aux::vector<char>, lt::file_index_t> given;
    given.resize(files.num_files());
    for (auto const file : files.file_range()) {
        auto const shape = layered(files, file);
        if (!shape) continue;
        auto const root = files.root(file);
        auto const layer =
            layers ? layers.dict_find_string(lt::string_view(root.data(), hash_size)) : lt::bdecode_node();
        if (!layer) {
            result.all_layers = false;
            continue;
        }
        auto const hashes = layer.string_value();
        if (int(hashes.size()) != shape->pieces * hash_size)
            throw std::runtime_error("a piece layer has the wrong length");
        given[file].assign(hashes.begin(), hashes.end());
    }
    result.info->set_piece_layers(std::move(given));
    return result;
}

std::vector<char> pack_layers(lt::add_torrent_params const& saved) {
    std::vector<char> packed;
    if (!saved.ti) return packed;
    auto const& files = saved.ti->orig_files();
    lt::entry document(lt::entry::dictionary_t);
    auto& list = document["files"].list();
    for (auto const file : files.file_range()) {
        lt::entry one(lt::entry::dictionary_t);
        if (auto const shape = layered(files, file)) {
            std::string mask(std::size_t((shape->kept() + 7) / 8), '\0');
            std::string hashes;
            for (auto const& [node, hash] : known_nodes(saved, file, *shape)) {
                mask[std::size_t(node / 8)] |= char(0x80 >> (node % 8));
                hashes.append(hash.data(), hash_size);
            }
            if (!hashes.empty()) {
                one["hashes"] = std::move(hashes);
                one["mask"] = std::move(mask);
            }
        }
        list.push_back(std::move(one));
    }
    lt::bencode(std::back_inserter(packed), document);
    return packed;
}

void load_layers(lt::span<char const> packed, lt::add_torrent_params& params) {
    lt::error_code error;
    auto const document = lt::bdecode(packed, error, nullptr, 10, max_tokens);
    if (error || document.type() != lt::bdecode_node::dict_t) return;
    auto const list = document.dict_find_list("files");
    auto const& files = params.ti->orig_files();
    if (!list || list.list_size() != files.num_files()) return;

    params.merkle_trees.resize(std::size_t(files.num_files()));
    params.merkle_tree_mask.resize(std::size_t(files.num_files()));
    for (auto const file : files.file_range()) {
        auto const shape = layered(files, file);
        if (!shape || !params.ti->piece_layer(file).empty()) continue;
        auto const one = list.list_at(static_cast<int>(file));
        if (one.type() != lt::bdecode_node::dict_t) continue;
        auto const mask = one.dict_find_string_value("mask");
        auto const hashes = one.dict_find_string_value("hashes");
        if (int(mask.size()) != (shape->kept() + 7) / 8) continue;

        std::vector<bool> nodes(std::size_t(shape->nodes()), false);
        int count = 0;
        for (int node = 0; node < shape->kept(); ++node) {
            if (!(mask[std::size_t(node / 8)] & (0x80 >> (node % 8)))) continue;
            nodes[std::size_t(node)] = true;
            ++count;
        }
        if (count == 0 || int(hashes.size()) != count * hash_size) continue;
        auto& tree = params.merkle_trees[file];
        for (int i = 0; i < count; ++i) tree.emplace_back(hashes.data() + i * hash_size);
        params.merkle_tree_mask[file] = std::move(nodes);
    }
}

std::optional<std::vector<char>> metainfo_with_layers(lt::add_torrent_params const& saved) {
    if (!saved.ti) return std::nullopt;
    auto const& files = saved.ti->orig_files();
    lt::entry layers(lt::entry::dictionary_t);
    for (auto const file : files.file_range()) {
        auto const shape = layered(files, file);
        if (!shape) continue;
        auto const nodes = known_nodes(saved, file, *shape);
        if (!whole_layer(nodes, *shape)) return std::nullopt;
        std::string layer;
        for (auto const& [node, hash] : nodes) layer.append(hash.data(), hash_size);
        layers.dict()[files.root(file).to_string()] = std::move(layer);
    }
    lt::entry document(lt::entry::dictionary_t);
    auto const info = saved.ti->info_section();
    document["info"] = lt::entry::preformatted_type(info.begin(), info.end());
    document["piece layers"] = std::move(layers);
    std::vector<char> bytes;
    lt::bencode(std::back_inserter(bytes), document);
    return bytes;
}

}  // namespace silmaril
