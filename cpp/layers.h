// Piece layers (BEP 52): the hashes of pieces, which are not part of the info dictionary. Reading metainfo
// with all, some or none of them; saving what is known of them, and loading that again.
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

// Throws std::runtime_error with the reason. Trackers, web seeds and dates in it are not used.
Metainfo parse_metainfo(lt::span<char const> bytes);

// Sets `params.merkle_trees` from what `pack_layers` gave, for files whose layer the metainfo did not have.
// Damaged or foreign bytes are ignored; every hash is checked against the file's root by libtorrent.
void load_layers(lt::span<char const> packed, lt::add_torrent_params& params);

// The piece layers in saved parameters: a few kilobytes per GiB, where libtorrent's own resume data has the
// hashes of all blocks.
std::vector<char> pack_layers(lt::add_torrent_params const& saved);

// Metainfo with all piece layers, or nothing while some are not known.
std::optional<std::vector<char>> metainfo_with_layers(lt::add_torrent_params const& saved);

}  // namespace silmaril
