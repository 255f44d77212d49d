// The memory for blocks that were read for peers and are not sent yet.
//
// libtorrent reads blocks for a peer until its send buffer has as many bytes as the peer takes in one and a
// half seconds, at least `send_buffer_low_watermark` and at most `send_buffer_watermark`. A peer that takes
// many blocks and then stops keeps its full buffer. So once a second the two settings are computed from what
// all connections have: the peers that receive their bytes may use the part of `max_bytes` that the
// other peers do not have. If those have more than half of it, memory is short: a peer that receives hardly
// any bytes is closed early (gate.cc).
//
// Used on the network thread only.
#pragma once

#include <cstdint>
#include <libtorrent/extensions.hpp>
#include <memory>

#include "guard.h"

namespace silmaril {

// The bytes of a send buffer that the peer will not take soon: it took `taken` bytes in the last second.
std::int64_t stuck_bytes(std::int64_t unsent, std::int64_t taken);

// Whether peers that take hardly anything have too many bytes.
bool is_short(Guard const& guard);

// Sets the two settings.
std::shared_ptr<lt::plugin> send_room(std::shared_ptr<Guard> guard);

}  // namespace silmaril
