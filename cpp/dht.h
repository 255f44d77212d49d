// The DHT: topics (BEP 5) and mutable items (BEP 44). The requests are methods of Engine.
#pragma once

#include <libtorrent/alert.hpp>

#include "rust/cxx.h"

namespace silmaril {

struct RawEvent;

// Appends the event that an alert of the DHT means; false when the alert is of something else.
bool translate_dht(lt::alert const& alert, rust::Vec<RawEvent>& events);

}  // namespace silmaril
