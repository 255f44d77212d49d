#include "create.h"

#include <algorithm>
#include <libtorrent/create_torrent.hpp>
#include <libtorrent/file_storage.hpp>
#include <libtorrent/settings_pack.hpp>
#include <map>
#include <stdexcept>
#include <string>

#include "disk.h"
#include "outbox.h"
#include "silmaril/src/ffi.rs.h"

namespace silmaril {

namespace {

// The torrent depends only on names, sizes, bytes and piece length. It has no attributes, dates, comment or
// creator.
lt::file_storage layout_of(std::string const& name, rust::Vec<RawFile> const& files) {
    lt::file_storage layout;
    // Every path has the name as its first component, so that a torrent of one file is still a directory.
    for (auto const& file : files)
        layout.add_file(name + "/" + std::string(file.path), std::int64_t(file.size));
    layout.set_name(name);
    return layout;
}

rust::Vec<std::uint8_t> finish(lt::create_torrent& torrent) {
    torrent.set_creation_date(0);
    torrent.set_creator(nullptr);
    auto const bytes = torrent.generate_buf();
    rust::Vec<std::uint8_t> result;
    result.reserve(bytes.size());
    std::copy(bytes.begin(), bytes.end(), std::back_inserter(result));
    return result;
}

std::map<std::string, RawFile const*> by_path(std::string const& name, rust::Vec<RawFile> const& files) {
    std::map<std::string, RawFile const*> result;
    for (auto const& file : files) result.emplace(name + "/" + std::string(file.path), &file);
    return result;
}

}  // namespace

rust::Vec<std::uint8_t> create_hybrid(rust::Str name_, rust::Vec<RawFile> const& files,
                                      std::uint32_t piece_length, std::int32_t threads) {
    std::string const name(name_);
    auto layout = layout_of(name, files);
    lt::create_torrent torrent(layout, int(piece_length), lt::create_torrent::no_attributes);
    auto const given = by_path(name, files);
    std::vector<GivenFile> sources;
    for (auto const index : torrent.files().file_range()) {
        if (torrent.files().pad_file_at(index)) continue;
        auto const& source = given.at(torrent.files().file_path(index))->source;
        sources.push_back({std::string(reinterpret_cast<char const*>(source.data()), source.size())});
    }
    // The files are read in place, by the disk back end that also serves torrents.
    auto const outbox = std::make_shared<Outbox>();
    outbox->register_files(0, std::move(sources), nullptr);
    lt::settings_pack settings;
    settings.set_int(lt::settings_pack::hashing_threads, threads);
    lt::error_code error;
    constexpr int open_files = 8;  // sufficient, because files are read one after another
    lt::set_piece_hashes(
        torrent, save_path_of(0), settings, disk_constructor(outbox, {threads, open_files}),
        [](lt::piece_index_t) {}, error);
    for (auto const& note : outbox->drain())
        if (note.kind == Note::Kind::disk_error)
            throw std::runtime_error(note.path + ": " + std::generic_category().message(note.error));
    if (error) throw std::runtime_error(error.message());
    return finish(torrent);
}

}  // namespace silmaril
