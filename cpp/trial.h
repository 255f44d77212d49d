// Test access to the gate and the slots: passes them messages and peers without a connection.
#pragma once

#include <cstdint>

#include "rust/cxx.h"

namespace silmaril {

// Passes framed messages (BEP 3: length, type, body) to a gate for the torrent. A message whose length has
// the top bit set is sent by this node: a HASH_REQUEST or a REQUEST. Returns how many incoming messages
// passed. Reading ends at the first message that is refused or cut.
std::uint32_t try_gate(rust::Slice<std::uint8_t const> metainfo, rust::Slice<std::uint8_t const> messages);

struct RawRoom;
struct RawTrial;
struct RawVisitor;
struct RawRumour;

// Passes to the gates of several connections, one after another, the same message repeatedly, all at the same
// time. Returns for each connection how many messages passed. A connection ends at the first message that
// disconnects it.
rust::Vec<std::uint32_t> try_group(rust::Slice<std::uint8_t const> metainfo,
                                   rust::Vec<RawTrial> const& connections);

// Connects peers to the slots of a torrent, one after another. Returns for each visitor the number of
// the visitor that was disconnected because of it; -1 for none.
rust::Vec<std::int32_t> try_slots(RawRoom const& room, rust::Vec<RawVisitor> const& visitors);

// Sends blocks to a peer of a torrent with this many blocks; -1 is a block that the peer cancels too late.
// Returns the indexes in `blocks` at which the peer wastes.
rust::Vec<std::size_t> try_waste(std::int64_t blocks_of_torrent, rust::Vec<std::int64_t> const& blocks);

// A peer at the address sends wrong data at these moments, in seconds. Returns for each moment for how many
// seconds its group may not connect afterwards.
rust::Vec<std::uint32_t> try_lies(rust::Str address, rust::Vec<std::uint32_t> const& moments);

// Whether torrents may call these hosts, which strangers have named, at these moments.
rust::Vec<bool> try_rumours(rust::Vec<RawRumour> const& rumours);

struct RawClaimStep;
struct RawClaimed;
// Passes messages of claims of one peer. Returns the claims that count after each step. A piece is expected
// to take a second.
rust::Vec<RawClaimed> try_claims(rust::Vec<RawClaimStep> const& steps);

struct RawOffer;
struct RawOfferMessage;
// Passes messages of offers of one peer, one per second, in a torrent of so many pieces of so many bytes.
// Returns what counts after them.
rust::Vec<RawOffer> try_offers(std::int32_t pieces, std::int32_t piece_length,
                               rust::Vec<RawOfferMessage> const& messages);

struct RawChoice;
struct RawWantedPiece;
// Which of the pieces is requested next; negative for none.
std::int32_t try_choose(RawChoice const& choice, rust::Vec<RawWantedPiece> const& pieces);

}  // namespace silmaril
