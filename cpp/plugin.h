// The libtorrent plugin of every torrent:
// - Removes `upload_only` from our extension handshake (BEP 10, BEP 21). Seeds of other programs disconnect
//   a peer that sends it, and a lazy torrent would send it whenever no read is waiting.
// - Keeps a peer unchoked when it loses interest, so that its next read saves a round trip.
// - Requests a whole piece immediately when a read begins.
// - Reports connected and disconnected peers, and passes the messages of the catalog extension (talk.h).
// - Requests piece hashes that libtorrent would forget (hashes.h).
// - Requests parts of pieces, and answers requests for the hashes of blocks (parts.h, leaves.h,
//   turns.h).
// - Offers and serves the granules of pieces that are not complete (offers.h).
// - Runs the gate (gate.h) before libtorrent's handlers.
// - Chooses which peer is disconnected when the torrent has no slot for a new one (slots.h).
// - Limits attempts to connect to hosts that only strangers have named (rumours.h).
// - Fetches the metadata of a magnet link (metadata.h).
// - Limits the upload to a peer that wastes it (meter.h).
// - Serves nothing of a withheld torrent (visibility.h).
#pragma once

#include <libtorrent/client_data.hpp>
#include <libtorrent/extensions.hpp>
#include <libtorrent/peer_connection.hpp>
#include <libtorrent/torrent_handle.hpp>
#include <memory>
#include <vector>

#include "guard.h"
#include "outbox.h"
#include "parts.h"
#include "proof.h"
#include "spare.h"
#include "talk.h"
#include "turns.h"
#include "visibility.h"

namespace silmaril {

// Objects that the plugin shares with the engine.
struct PluginParts {
    std::shared_ptr<Outbox> outbox;
    std::shared_ptr<Talk> talk;
    std::shared_ptr<Guard> guard;
    std::shared_ptr<Spare> spare;
    std::shared_ptr<Turns> turns;
    std::shared_ptr<Proof> proof;  // null for a torrent without metadata
    std::shared_ptr<Parts> parts;  // null for a torrent without metadata
    std::shared_ptr<Visibility const> visibility;
    std::uint64_t torrent;
    bool wants_metadata;  // the torrent has no metadata and fetches it from peers
};

// Announces to a peer that this node no longer has these pieces: by lt_donthave (BEP 54), and by rejects of
// its requests. A peer without the fast extension (BEP 6) does not know rejects and would wait for ever, so
// its connection is closed.
void send_withdrawn(lt::peer_connection& peer, std::vector<lt::piece_index_t> const& pieces);

std::shared_ptr<lt::torrent_plugin> make_plugin(PluginParts parts, lt::torrent_handle handle);

}  // namespace silmaril
