// Removes pieces from a running torrent.
#pragma once

#include <libtorrent/torrent.hpp>
#include <vector>

namespace silmaril {

// Makes libtorrent forget that it has these pieces, and informs all peers. The pieces are not wanted until
// their priority is set again. A piece that is being fetched is not changed. Returns the pieces with
// all blocks that are not counted yet: libtorrent may count them, and the caller must withdraw them again
// then. Peers are informed by lt_donthave (BEP 54) and by rejects of their requests (BEP 6). A peer without
// BEP 6 would wait for ever, so its connection is closed; after it reconnects, it receives a correct
// bitfield. Must be called on the network thread.
std::vector<int> withdraw(lt::torrent& torrent, std::vector<int> const& pieces);

}  // namespace silmaril
