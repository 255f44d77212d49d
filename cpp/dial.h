// Calls to peers, without regard to what libtorrent believes of them.
#pragma once

#include <libtorrent/socket.hpp>
#include <libtorrent/torrent.hpp>

namespace silmaril {

// Calls a peer now, unless a connection to it exists or is being made. Earlier failures do not count; a
// filtered address does. To be called on the network thread, as the next function.
void dial(lt::torrent& torrent, lt::tcp::endpoint const& peer);

// Calls the peers that the torrent knows and has no connection to, from whatever source: at most `most`,
// those first that were called the longest time ago.
void dial_known(lt::torrent& torrent, std::size_t most);

}  // namespace silmaril
