// Connects to peers, also when libtorrent itself would not connect to them now.
#pragma once

#include <libtorrent/socket.hpp>
#include <libtorrent/torrent.hpp>

#include "guard.h"

namespace silmaril {

// Connects to a peer now, unless a connection exists or is being made. Ignores earlier failures, but respects
// the address filter and the limits for hosts that the user has not named (rumours.h). Both functions must be
// called on the network thread.
void dial(lt::torrent& torrent, lt::tcp::endpoint const& peer);

// Connects to known peers of the torrent without a connection, from any source: at most `most` of them, with
// preference for hosts that `guard` exempts and for peers that have sent data. Another host of which calls
// have failed is called only as often as by libtorrent itself.
void dial_known(lt::torrent& torrent, Guard& guard, std::size_t most);

}  // namespace silmaril
