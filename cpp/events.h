// Turns libtorrent's alerts and our own notes into owned events.
#pragma once

#include <libtorrent/alert.hpp>
#include <libtorrent/client_data.hpp>

#include "outbox.h"
#include "rust/cxx.h"

namespace silmaril {

struct RawEvent;
enum class RawKind : std::uint8_t;

// Our number of a torrent travels in libtorrent's user data; this is never dereferenced.
struct TorrentTag;
lt::client_data_t tag_of(std::uint64_t torrent);
std::uint64_t torrent_of(lt::client_data_t data);

rust::Vec<std::uint8_t> bytes_of(char const* data, std::size_t size);

RawEvent event_of(RawKind kind, std::uint64_t torrent);
RawEvent event_of(Note note);

// Appends the events an alert means, other than those that the engine deals with itself.
void translate(lt::alert const& alert, rust::Vec<RawEvent>& events);

}  // namespace silmaril
