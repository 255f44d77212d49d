#include "urgent.h"

#include <boost/asio/post.hpp>
#include <libtorrent/peer_connection.hpp>
#include <libtorrent/piece_picker.hpp>
#include <vector>

namespace silmaril {

namespace {

// Requests are cancelled at most once in this time.
constexpr auto between = std::chrono::seconds(2);

// Cancels the requests for pieces that are in no window.
void make_room(lt::torrent& torrent) {
    if (torrent.is_aborted() || !torrent.has_picker()) return;
    auto const in_window = [&picker = torrent.picker()](lt::piece_block const& block) {
        return int(static_cast<std::uint8_t>(picker.piece_priority(block.piece_index))) >= window_priority;
    };
    for (auto* const peer : torrent) {
        std::vector<lt::piece_block> blocks;
        for (auto const& one : peer->download_queue())
            if (!one.not_wanted && !one.timed_out && !in_window(one.block)) blocks.push_back(one.block);
        for (auto const& one : peer->request_queue())
            if (!in_window(one.block)) blocks.push_back(one.block);
        for (auto const& block : blocks) peer->cancel_request(block, true);
    }
}

}  // namespace

void Urgent::set_deadline(lt::torrent& torrent, lt::piece_index_t const piece, int const milliseconds) {
    bool const first = torrent.time_critical_pieces().empty();
    torrent.set_piece_deadline(piece, milliseconds, {});
    auto const now = Clock::now();
    if (!first || now < m_next) return;
    m_next = now + between;
    // Further pieces may get their deadlines first.
    boost::asio::post(torrent.session().get_context(),
                      [torrent = torrent.shared_from_this()] { make_room(*torrent); });
}

}  // namespace silmaril
