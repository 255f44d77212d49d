// The extension every torrent of ours carries. It keeps `upload_only` out of our extension handshake (BEP 10,
// BEP 21), because other people's seeds hang up on a peer that says it, and a lazy torrent says it whenever
// no read is waiting. It keeps a peer unchoked when it loses interest, so that its next read saves a round
// trip, and asks for a whole piece at once when a read begins. It tells of peers that come and go, and
// carries the messages of those that speak (talk.h). It has hashes of pieces asked for that libtorrent would
// forget (hashes.h). It keeps a withheld torrent to itself (visibility.h).
#pragma once

#include <libtorrent/client_data.hpp>
#include <libtorrent/extensions.hpp>
#include <libtorrent/torrent_handle.hpp>
#include <memory>

#include "outbox.h"
#include "talk.h"
#include "visibility.h"

namespace silmaril {

std::shared_ptr<lt::torrent_plugin> make_plugin(std::shared_ptr<Outbox> outbox, std::shared_ptr<Talk> talk,
                                                std::uint64_t torrent, lt::torrent_handle handle,
                                                std::shared_ptr<Visibility const> visibility);

}  // namespace silmaril
