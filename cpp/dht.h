// The DHT: topics (BEP 5) and mutable items (BEP 44). The requests are methods of Engine.
#pragma once

#include <cstdint>
#include <libtorrent/alert.hpp>
#include <libtorrent/kademlia/dht_state.hpp>

#include "rust/cxx.h"

namespace silmaril {

struct RawEvent;

// What Engine::dht_state gave; empty when it cannot be read.
lt::dht::dht_state parse_dht_state(rust::Slice<std::uint8_t const> bytes);

// Appends the event that an alert of the DHT means; false when the alert is of something else.
bool translate_dht(lt::alert const& alert, rust::Vec<RawEvent>& events);

}  // namespace silmaril
