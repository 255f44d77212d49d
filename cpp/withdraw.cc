#include "withdraw.h"

#include <libtorrent/peer_connection.hpp>
#include <libtorrent/piece_picker.hpp>

#include "compat.h"
#include "plugin.h"

namespace silmaril {

std::vector<int> withdraw(lt::torrent& torrent, std::vector<int> const& pieces) {
    if (torrent.is_aborted() || !torrent.valid_metadata()) return {};
    // A seed has no picker.
    torrent.need_picker();
    HaveAll::clear(torrent);
    auto& picker = torrent.picker();
    std::vector<lt::piece_index_t> gone;
    std::vector<int> pending;
    for (int const number : pieces) {
        lt::piece_index_t const piece{number};
        torrent.reset_piece_deadline(piece);
        picker.set_piece_priority(piece, lt::dont_download);
        if (picker.have_piece(piece)) {
            picker.we_dont_have(piece);
            gone.push_back(piece);
        } else if (picker.is_hashing(piece) || picker.is_piece_finished(piece)) {
            pending.push_back(number);
        }
    }
    if (gone.empty()) return pending;
    torrent.need_hash_picker();
    if (torrent.state() == lt::torrent_status::seeding) torrent.set_state(lt::torrent_status::finished);
    torrent.update_gauge();
    // Copied, because a disconnect may change the list.
    std::vector<lt::peer_connection*> const peers(torrent.begin(), torrent.end());
    for (auto* const peer : peers) send_withdrawn(*peer, gone);
    return pending;
}

}  // namespace silmaril
