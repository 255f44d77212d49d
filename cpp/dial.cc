#include "dial.h"

#include <algorithm>
#include <array>
#include <libtorrent/peer_info.hpp>
#include <libtorrent/peer_list.hpp>
#include <libtorrent/torrent_peer.hpp>
#include <vector>

#include "compat.h"
#include "slots.h"

namespace silmaril {

namespace {

// Attempts may exceed the limit by a few. When a peer answers, it gets a slot or is refused (slots.h).
bool can_call(lt::torrent const& torrent) {
    auto const state = torrent.state();
    auto const limit = torrent.max_connections();
    return !torrent.is_aborted() && !torrent.is_paused() && state != lt::torrent_status::checking_files &&
           state != lt::torrent_status::checking_resume_data && torrent.num_peers() < limit + reserved(limit);
}

bool is_callable(lt::torrent_peer const& peer) {
    return !peer.connection && !peer.banned && !peer.web_seed && peer.connectable;
}

// Whether the wait after the last call that failed is over: one second, and one more for each failure, as in
// libtorrent itself.
bool is_due(lt::torrent& torrent, lt::torrent_peer const& peer) {
    if (peer.failcount == 0 || peer.last_connected == 0) return true;
    auto const now = std::uint16_t(torrent.session().session_time());
    return std::uint16_t(now - peer.last_connected) > peer.failcount;
}

// Orders peers for calls: alternately a host that the user named or that has sent data, and another one; of
// each kind the one with the oldest attempt first. Strangers can fill the list with addresses.
std::vector<lt::torrent_peer*> in_turn(lt::torrent& torrent, lt::peer_list const& list, Guard& guard) {
    std::array<std::vector<lt::torrent_peer*>, 2> kinds;
    for (auto* const peer : list) {
        if (!is_callable(*peer)) continue;
        bool const known = peer->prev_amount_download > 0 || guard.is_exempt(peer->address());
        if (!known && !is_due(torrent, *peer)) continue;
        kinds[known ? 0 : 1].push_back(peer);
    }
    auto const earlier = [](lt::torrent_peer const* a, lt::torrent_peer const* b) {
        return a->last_connected < b->last_connected;
    };
    for (auto& kind : kinds) std::stable_sort(kind.begin(), kind.end(), earlier);
    std::vector<lt::torrent_peer*> all;
    for (std::size_t i = 0; i < std::max(kinds[0].size(), kinds[1].size()); ++i)
        for (auto const& kind : kinds)
            if (i < kind.size()) all.push_back(kind[i]);
    return all;
}

// libtorrent connects to a peer at most once a second, and waits longer after each failure. It also keeps a
// count of the peers to which it could connect. The count excludes seeds while no piece is wanted, and is not
// updated when a piece becomes wanted: libtorrent never connects again to a seed that was lost in that time.
void call(lt::torrent& torrent, lt::torrent_peer& peer) {
    if (!is_callable(peer)) return;
    if (torrent.may_call(peer))
        torrent.connect_to_peer(&peer, true);
    else
        // Another one is called first the next time.
        peer.last_connected = std::uint16_t(torrent.session().session_time());
}

}  // namespace

void dial(lt::torrent& torrent, lt::tcp::endpoint const& peer) {
    auto* const known = torrent.add_peer(peer, {});
    if (known && can_call(torrent)) call(torrent, *known);
}

void dial_known(lt::torrent& torrent, Guard& guard, std::size_t const most) {
    auto const* const list = PeerList::of(torrent);
    if (!list) return;
    auto idle = in_turn(torrent, *list, guard);
    if (idle.size() > most) idle.resize(most);
    for (auto* const peer : idle) {
        // A failed attempt may delete peers from the list.
        bool const is_known = std::find(list->begin(), list->end(), peer) != list->end();
        if (is_known && can_call(torrent)) call(torrent, *peer);
    }
}

}  // namespace silmaril
