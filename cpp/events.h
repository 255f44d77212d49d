// Converts libtorrent's alerts and the notes of the outbox into owned events.
#pragma once

#include <libtorrent/alert.hpp>
#include <libtorrent/client_data.hpp>

#include "outbox.h"
#include "rust/cxx.h"

namespace silmaril {

struct RawEvent;
enum class RawKind : std::uint8_t;

// libtorrent's user data contains our number of a torrent as a pointer, which is never dereferenced.
struct TorrentTag;
lt::client_data_t tag_of(std::uint64_t torrent);
std::uint64_t torrent_of(lt::client_data_t data);

rust::Vec<std::uint8_t> bytes_of(char const* data, std::size_t size);

RawEvent event_of(RawKind kind, std::uint64_t torrent);
RawEvent event_of(Note note);

// Appends the events for an alert that the engine does not handle itself.
void translate(lt::alert const& alert, rust::Vec<RawEvent>& events);

}  // namespace silmaril
