// Entries to the gate and the slots for tests: feeds them messages and peers without a connection.
#pragma once

#include <cstdint>

#include "rust/cxx.h"

namespace silmaril {

// Feeds a gate for the torrent with framed messages (BEP 3: length, type, body). A message whose length has
// the top bit set is one that this node sends: a HASH_REQUEST or a REQUEST. Returns how many incoming
// messages passed; reading ends at the first that is refused, or cut.
std::uint32_t try_gate(rust::Slice<std::uint8_t const> metainfo, rust::Slice<std::uint8_t const> messages);

struct RawTrial;
struct RawVisitor;

// Feeds the gates of several connections, one after another, with the same message again and again, all at
// one moment. Returns for each connection how many passed; it ends at the first that disconnects.
rust::Vec<std::uint32_t> try_group(rust::Slice<std::uint8_t const> metainfo,
                                   rust::Vec<RawTrial> const& connections);

// Has peers connect to a torrent with this many slots, one after another. Returns for each visitor which one
// was disconnected because of it, by its number; -1 for none.
rust::Vec<std::int32_t> try_slots(std::int32_t limit, rust::Vec<RawVisitor> const& visitors);

}  // namespace silmaril
