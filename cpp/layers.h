// Piece layers (BEP 52): the hashes of pieces, which are not part of the info dictionary. Reads metainfo with
// all, some or none of them, and saves and loads the known hashes.
#pragma once

#include <libtorrent/add_torrent_params.hpp>
#include <libtorrent/span.hpp>
#include <libtorrent/torrent_info.hpp>
#include <memory>
#include <optional>
#include <vector>

namespace silmaril {

struct Metainfo {
    std::shared_ptr<lt::torrent_info> info;
    bool all_layers = false;  // every file longer than a piece has its layer
};

// Throws std::runtime_error with the reason. Ignores trackers, web seeds and dates.
Metainfo parse_metainfo(lt::span<char const> bytes);

// Sets `params.merkle_trees` from the result of `pack_layers`, for files without a layer in the metainfo.
// Ignores damaged or foreign bytes. libtorrent checks every hash against the file's root.
void load_layers(lt::span<char const> packed, lt::add_torrent_params& params);

// The piece layers in saved parameters: a few kilobytes per GiB. libtorrent's own resume data is larger,
// because it has the hashes of all blocks.
std::vector<char> pack_layers(lt::add_torrent_params const& saved);

// Metainfo with all piece layers; none while some are unknown.
std::optional<std::vector<char>> metainfo_with_layers(lt::add_torrent_params const& saved);

}  // namespace silmaril
