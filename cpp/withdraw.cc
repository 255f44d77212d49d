#include "withdraw.h"

#include <boost/asio/post.hpp>
#include <chrono>
#include <libtorrent/peer_connection.hpp>
#include <libtorrent/piece_picker.hpp>

#include "compat.h"
#include "plugin.h"

namespace silmaril {

namespace {

// How long the hash of a piece may take to be dealt with.
constexpr auto settled_within = std::chrono::seconds(10);

struct Found {
    std::vector<lt::piece_index_t> gone;
    // Whole and not yet counted: its hash is right, perhaps, and libtorrent is about to learn it.
    std::vector<int> unsettled;
};

// Which of these pieces libtorrent had. It counts them no more as such.
Found take_out(lt::torrent& torrent, std::vector<int> const& pieces, bool later) {
    // A seed has no picker.
    torrent.need_picker();
    HaveAll::clear(torrent);
    auto& picker = torrent.picker();
    Found found;
    for (int const number : pieces) {
        lt::piece_index_t const piece{number};
        bool const here = picker.have_piece(piece);
        if (!here && !picker.is_piece_finished(piece) && !picker.is_hashing(piece)) continue;
        // Later it may have been requested again.
        if (!later) picker.set_piece_priority(piece, lt::dont_download);
        if (here) {
            picker.we_dont_have(piece);
            found.gone.push_back(piece);
        } else {
            found.unsettled.push_back(number);
        }
    }
    return found;
}

void withdraw(lt::torrent& torrent, std::vector<int> const& pieces, bool later,
              std::chrono::steady_clock::time_point until) {
    if (torrent.is_aborted() || !torrent.valid_metadata()) return;
    auto found = take_out(torrent, pieces, later);
    if (!found.unsettled.empty() && std::chrono::steady_clock::now() < until) {
        auto again = [weak = torrent.weak_from_this(), rest = std::move(found.unsettled), until] {
            if (auto const strong = weak.lock()) withdraw(*strong, rest, true, until);
        };
        boost::asio::post(torrent.session().get_context(), std::move(again));
    }
    if (found.gone.empty()) return;
    torrent.need_hash_picker();
    if (torrent.state() == lt::torrent_status::seeding) torrent.set_state(lt::torrent_status::finished);
    torrent.update_gauge();
    // A connection that ends is taken out of the list a moment later.
    std::vector<lt::peer_connection*> const peers(torrent.begin(), torrent.end());
    for (auto* const peer : peers) tell_withdrawn(*peer, found.gone);
}

}  // namespace

void withdraw(lt::torrent& torrent, std::vector<int> const& pieces) {
    withdraw(torrent, pieces, false, std::chrono::steady_clock::now() + settled_within);
}

}  // namespace silmaril
