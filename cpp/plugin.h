// The extension every torrent of ours carries. It keeps `upload_only` out of our extension handshake (BEP 10,
// BEP 21), because other people's seeds hang up on a peer that says it, and a lazy torrent says it whenever
// no read is waiting. It keeps a peer unchoked when it loses interest, so that its next read saves a round
// trip, and asks for a whole piece at once when a read begins. It tells of peers that come and go, and
// carries the messages of those that speak (talk.h). It has hashes of pieces asked for that libtorrent would
// forget (hashes.h). It puts the gate (gate.h) before libtorrent's handlers, and chooses which peer makes
// room when the torrent has no slot left for a new one. It fetches the metadata of a magnet link
// (metadata.h). It keeps a withheld torrent to itself (visibility.h).
#pragma once

#include <libtorrent/client_data.hpp>
#include <libtorrent/extensions.hpp>
#include <libtorrent/peer_connection.hpp>
#include <libtorrent/torrent_handle.hpp>
#include <memory>
#include <vector>

#include "guard.h"
#include "outbox.h"
#include "proof.h"
#include "talk.h"
#include "visibility.h"

namespace silmaril {

// What the plugin of one torrent shares with others.
struct PluginParts {
    std::shared_ptr<Outbox> outbox;
    std::shared_ptr<Talk> talk;
    std::shared_ptr<Guard> guard;
    std::shared_ptr<Proof> proof;  // null for a torrent without metadata
    std::shared_ptr<Visibility const> visibility;
    std::uint64_t torrent;
    bool wants_metadata;  // it has none and is to fetch it from peers
};

// Tells a peer that these pieces are not there any more: by lt_donthave (BEP 54), and by rejects of its
// requests. A peer without the fast extension (BEP 6) does not know rejects and would wait for ever, so its
// connection ends.
void tell_withdrawn(lt::peer_connection& peer, std::vector<lt::piece_index_t> const& pieces);

std::shared_ptr<lt::torrent_plugin> make_plugin(PluginParts parts, lt::torrent_handle handle);

}  // namespace silmaril
