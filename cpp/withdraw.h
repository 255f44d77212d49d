// Removes pieces from a running torrent.
#pragma once

#include <libtorrent/torrent.hpp>
#include <vector>

namespace silmaril {

// Makes libtorrent forget that it has these pieces, and informs all peers. The pieces are not wanted until
// their priority is set again. A piece that is being fetched is not changed. A piece whose blocks have all
// arrived, but which libtorrent does not count yet, is removed as soon as it is counted. Peers are informed
// by lt_donthave (BEP 54) and by rejects of their requests (BEP 6). A peer without BEP 6 would wait for ever,
// so its connection is closed; after it reconnects, it receives a correct bitfield. Must be called on the
// network thread.
void withdraw(lt::torrent& torrent, std::vector<int> const& pieces);

}  // namespace silmaril
