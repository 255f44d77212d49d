// An entry to the gate for tests: feeds it messages without a connection.
#pragma once

#include <cstdint>

#include "rust/cxx.h"

namespace silmaril {

// Feeds a gate for the torrent with framed messages (BEP 3: length, type, body). A message whose length has
// the top bit set is one that this node sends: a HASH_REQUEST. Returns how many incoming messages passed;
// reading ends at the first that is refused, or cut.
std::uint32_t try_gate(rust::Slice<std::uint8_t const> metainfo, rust::Slice<std::uint8_t const> messages);

}  // namespace silmaril
