#include "dial.h"

#include <algorithm>
#include <libtorrent/peer_info.hpp>
#include <libtorrent/peer_list.hpp>
#include <libtorrent/torrent_peer.hpp>
#include <vector>

#include "compat.h"

namespace silmaril {

namespace {

bool can_call(lt::torrent const& torrent) {
    auto const state = torrent.state();
    return !torrent.is_aborted() && !torrent.is_paused() && state != lt::torrent_status::checking_files &&
           state != lt::torrent_status::checking_resume_data &&
           torrent.num_peers() < torrent.max_connections();
}

// libtorrent connects to a peer at most once a second, and waits longer after each failure. It also keeps a
// count of the peers to which it could connect. The count excludes seeds while no piece is wanted, and is not
// updated when a piece becomes wanted: libtorrent never connects again to a seed that was lost in that time.
void call(lt::torrent& torrent, lt::torrent_peer& peer) {
    if (peer.connection || peer.banned || peer.web_seed || !peer.connectable) return;
    // Reset, because libtorrent waits three seconds longer for the connection after each failure.
    peer.failcount = 0;
    torrent.connect_to_peer(&peer, true);
}

}  // namespace

void dial(lt::torrent& torrent, lt::tcp::endpoint const& peer) {
    auto* const known = torrent.add_peer(peer, {});
    if (known && can_call(torrent)) call(torrent, *known);
}

void dial_known(lt::torrent& torrent, std::size_t const most) {
    auto const* const list = PeerList::of(torrent);
    if (!list) return;
    std::vector<lt::torrent_peer*> idle;
    for (auto* const peer : *list)
        if (!peer->connection) idle.push_back(peer);
    auto const earlier = [](lt::torrent_peer const* a, lt::torrent_peer const* b) {
        return a->last_connected < b->last_connected;
    };
    std::stable_sort(idle.begin(), idle.end(), earlier);
    if (idle.size() > most) idle.resize(most);
    for (auto* const peer : idle) {
        // A failed attempt may delete peers from the list.
        bool const is_known = std::find(list->begin(), list->end(), peer) != list->end();
        if (is_known && can_call(torrent)) call(torrent, *peer);
    }
}

}  // namespace silmaril
