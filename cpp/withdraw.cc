#include "withdraw.h"

#include <libtorrent/peer_connection.hpp>
#include <libtorrent/piece_picker.hpp>

#include "compat.h"
#include "plugin.h"

namespace silmaril {

namespace {

// The pieces of these that libtorrent had, as which it counts them no more.
std::vector<lt::piece_index_t> take_out(lt::torrent& torrent, std::vector<int> const& pieces) {
    // A seed has no picker.
    torrent.need_picker();
    HaveAll::clear(torrent);
    auto& picker = torrent.picker();
    std::vector<lt::piece_index_t> gone;
    for (int const number : pieces) {
        lt::piece_index_t const piece{number};
        if (!picker.have_piece(piece)) continue;
        picker.set_piece_priority(piece, lt::dont_download);
        picker.we_dont_have(piece);
        gone.push_back(piece);
    }
    return gone;
}

}  // namespace

void withdraw(lt::torrent& torrent, std::vector<int> const& pieces) {
    if (torrent.is_aborted() || !torrent.valid_metadata()) return;
    auto const gone = take_out(torrent, pieces);
    if (gone.empty()) return;
    torrent.need_hash_picker();
    if (torrent.state() == lt::torrent_status::seeding) torrent.set_state(lt::torrent_status::finished);
    torrent.update_gauge();
    // A connection that ends is taken out of the list a moment later.
    std::vector<lt::peer_connection*> const peers(torrent.begin(), torrent.end());
    for (auto* const peer : peers) tell_withdrawn(*peer, gone);
}

}  // namespace silmaril
