// Pieces that a torrent has no more, while it runs.
#pragma once

#include <libtorrent/torrent.hpp>
#include <vector>

namespace silmaril {

// Makes libtorrent forget that it has these pieces, and tells all peers. They are not wanted until their
// priority is set again; a piece that is being fetched is left alone. One whose blocks are all here, but
// which libtorrent does not count yet, is taken out as soon as it does. A peer learns of it by lt_donthave
// (BEP 54) and by rejects of its requests (BEP 6). One without the latter could only wait for what never
// comes, so its connection ends: when it returns, it is sent a true bitfield. To be called on the network
// thread.
void withdraw(lt::torrent& torrent, std::vector<int> const& pieces);

}  // namespace silmaril
