#include "withdraw.h"

#include <boost/asio/post.hpp>
#include <chrono>
#include <libtorrent/peer_connection.hpp>
#include <libtorrent/piece_picker.hpp>

#include "compat.h"
#include "plugin.h"

namespace silmaril {

namespace {

// How long libtorrent may take to handle the hash of a piece.
constexpr auto hashed_within = std::chrono::seconds(10);

struct Withdrawn {
    std::vector<lt::piece_index_t> gone;
    // Complete pieces that libtorrent does not count yet, because it has not handled their hashes.
    std::vector<int> pending;
};

// Makes libtorrent forget these pieces. Returns those that it had.
Withdrawn clear_have(lt::torrent& torrent, std::vector<int> const& pieces, bool later) {
    // A seed has no picker.
    torrent.need_picker();
    HaveAll::clear(torrent);
    auto& picker = torrent.picker();
    Withdrawn found;
    for (int const number : pieces) {
        lt::piece_index_t const piece{number};
        bool const here = picker.have_piece(piece);
        lt::piece_picker::downloading_piece state;
        picker.piece_info(piece, state);
        // Not in a later round, because the piece may be requested again until then.
        if (!later) {
            torrent.reset_piece_deadline(piece);
            picker.set_piece_priority(piece, lt::dont_download);
        }
        if (!here && !state.locked && !picker.is_hashing(piece)) continue;
        if (here) {
            picker.we_dont_have(piece);
            found.gone.push_back(piece);
        } else {
            found.pending.push_back(number);
        }
    }
    return found;
}

void withdraw(lt::torrent& torrent, std::vector<int> const& pieces, bool later,
              std::chrono::steady_clock::time_point until) {
    if (torrent.is_aborted() || !torrent.valid_metadata()) return;
    auto found = clear_have(torrent, pieces, later);
    if (!found.pending.empty() && std::chrono::steady_clock::now() < until) {
        auto again = [weak = torrent.weak_from_this(), rest = std::move(found.pending), until] {
            if (auto const strong = weak.lock()) withdraw(*strong, rest, true, until);
        };
        boost::asio::post(torrent.session().get_context(), std::move(again));
    }
    if (found.gone.empty()) return;
    torrent.need_hash_picker();
    if (torrent.state() == lt::torrent_status::seeding) torrent.set_state(lt::torrent_status::finished);
    torrent.update_gauge();
    // Copied, because a disconnect may change the list.
    std::vector<lt::peer_connection*> const peers(torrent.begin(), torrent.end());
    for (auto* const peer : peers) send_withdrawn(*peer, found.gone);
}

}  // namespace

void withdraw(lt::torrent& torrent, std::vector<int> const& pieces) {
    withdraw(torrent, pieces, false, std::chrono::steady_clock::now() + hashed_within);
}

}  // namespace silmaril
