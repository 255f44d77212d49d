// The DHT: topics (BEP 5) and mutable items (BEP 44). The requests are methods of Engine.
#pragma once

#include <cstdint>
#include <libtorrent/alert.hpp>
#include <libtorrent/kademlia/dht_state.hpp>

#include "rust/cxx.h"

namespace silmaril {

struct RawEvent;

// Parses the result of Engine::dht_state. Returns an empty state if that fails.
lt::dht::dht_state parse_dht_state(rust::Slice<std::uint8_t const> bytes);

// Appends the event for an alert of the DHT; false if the alert is of another kind.
bool translate_dht(lt::alert const& alert, rust::Vec<RawEvent>& events);

}  // namespace silmaril
