#include "blame.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <libtorrent/request_blocks.hpp>
#include <libtorrent/torrent_peer.hpp>
#include <set>

#include "compat.h"

namespace silmaril {

namespace {

// For how many seconds after a failed piece peers get requests again. Longer while there are suspects and
// wanted pieces.
constexpr int ticks_after_failure = 30;

// If a peer sends nothing for this many seconds after a failed piece, its requests are cancelled as far as
// another peer can answer them.
constexpr int max_silence = 1;

using Connections = std::vector<std::shared_ptr<lt::peer_connection>>;

bool is_suspect(lt::peer_connection const& peer) {
    auto const* const info = peer.peer_info_struct();
    return info && info->on_parole;
}

// Whether a request for the piece can be sent to the peer.
bool can_ask(lt::peer_connection const& peer, lt::piece_index_t piece) {
    return !peer.is_disconnecting() && !peer.has_peer_choked() && peer.has_piece(piece);
}

using Blocks = lt::span<lt::piece_picker::block_info const>;

// The blocks of a piece that peers send. The picker counts the padding behind them as received.
Blocks payload(lt::piece_picker const& picker, lt::piece_picker::downloading_piece const& piece) {
    int const padding = picker.pad_bytes_in_piece(piece.index) / lt::default_block_size;
    return picker.blocks_for_piece(piece).first(picker.blocks_in_piece(piece.index) - padding);
}

// The received blocks of a piece whose senders are banned or disconnected.
std::vector<int> orphans(Blocks const blocks) {
    std::vector<int> found;
    for (int block = 0; block < int(blocks.size()); ++block) {
        auto const& info = blocks[block];
        if (info.state != lt::piece_picker::block_info::state_finished) continue;
        if (!info.peer || info.peer->banned || !info.peer->connection) found.push_back(block);
    }
    return found;
}

// Whether one peer sent all received blocks and can send more. Only then a suspect may fetch the rest.
bool has_owner(lt::piece_picker const& picker, lt::piece_picker::downloading_piece const& piece) {
    lt::torrent_peer const* owner = nullptr;
    for (auto const& info : payload(picker, piece)) {
        if (info.state != lt::piece_picker::block_info::state_finished) continue;
        if (!info.peer || (owner && info.peer != owner)) return false;
        owner = info.peer;
    }
    if (!owner || owner->banned || !owner->connection) return false;
    auto const& connection = static_cast<lt::peer_connection const&>(*owner->connection);
    return can_ask(connection, piece.index) && connection.download_queue().empty();
}

// Drops blocks whose senders are banned, disconnected or silent, so that the remaining peers can fetch
// complete pieces.
template <typename IsSilent>
void free_pieces(lt::torrent& torrent, Connections const& connections, IsSilent const& is_silent) {
    auto& picker = torrent.picker();
    for (auto const& piece : picker.get_download_queue()) {
        if (piece.locked || piece.hashing || piece.passed_hash_check) continue;
        if (piece.finished == 0 || piece.finished == picker.blocks_in_piece(piece.index)) continue;
        auto const blocks = payload(picker, piece);
        // Also while another peer sends the rest: with these blocks the piece is probably wrong.
        auto forgotten = orphans(blocks);
        bool const is_idle = piece.writing == 0 && piece.requested == 0;
        bool const has_trusted = std::any_of(connections.begin(), connections.end(), [&](auto const& peer) {
            return can_ask(*peer, piece.index) && !is_suspect(*peer) && !is_silent(*peer);
        });
        if (is_idle && !has_trusted && !has_owner(picker, piece)) {
            forgotten.clear();
            for (int block = 0; block < int(blocks.size()); ++block)
                if (blocks[block].state == lt::piece_picker::block_info::state_finished)
                    forgotten.push_back(block);
        }
        if (!forgotten.empty()) picker.restore_piece(piece.index, forgotten);
    }
}

}  // namespace

void Blame::piece_failed(lt::piece_index_t const piece) {
    m_ticks = ticks_after_failure;
    auto const torrent = m_handle.native_handle();
    if (!torrent || !torrent->has_picker()) return;
    auto const downloaders = torrent->picker().get_downloaders(piece);
    std::set<lt::torrent_peer*> const senders(downloaders.begin(), downloaders.end());
    // libtorrent subtracts 2 trust points for each wrong piece and bans a peer at -7. Pieces that several
    // peers sent prove nothing about one of them, so the points are reset.
    if (senders.size() > 1) {
        for (auto* const peer : senders)
            if (peer && peer->trust_points < 0) peer->trust_points = 0;
    }
}

void Blame::piece_cleared() {
    if (m_ticks > 0) request_blocks();
}

void Blame::peer_gone() {
    auto const torrent = m_handle.native_handle();
    if (m_ticks == 0 || m_posted || !torrent) return;
    m_posted = true;
    // Posted, so that it runs after libtorrent has removed the connection from its list.
    boost::asio::post(torrent->session().get_context(), [weak = weak_from_this()] {
        auto const self = weak.lock();
        if (!self) return;
        self->m_posted = false;
        self->request_blocks();
    });
}

void Blame::tick() {
    if (m_ticks == 0) return;
    auto const torrent = m_handle.native_handle();
    bool const waits = torrent && !torrent->is_finished();
    auto const connections = m_connections();
    bool const suspects = waits && std::any_of(connections.begin(), connections.end(),
                                               [](auto const& peer) { return is_suspect(*peer); });
    if (!suspects && --m_ticks == 0) m_progress.clear();
    cancel_silent();
    request_blocks();
}

void Blame::cancel_silent() {
    auto const torrent = m_handle.native_handle();
    if (!torrent || torrent->is_aborted() || !torrent->has_picker()) return;
    std::map<lt::peer_connection const*, Progress> now;
    auto const connections = m_connections();
    for (auto const& peer : connections) {
        if (peer->is_disconnecting() || peer->download_queue().empty()) continue;
        auto const received = peer->statistics().total_payload_download();
        auto const before = m_progress.find(peer.get());
        bool const silent = before != m_progress.end() && before->second.received == received;
        auto& progress = now[peer.get()];
        progress = {received, silent ? before->second.silent + 1 : 0};
        if (progress.silent < max_silence) continue;
        std::vector<lt::piece_block> blocks;
        for (auto const& pending : peer->download_queue())
            if (!pending.not_wanted && !pending.timed_out) blocks.push_back(pending.block);
        for (auto const& pending : peer->request_queue()) blocks.push_back(pending.block);
        for (auto const& block : blocks) {
            bool const replaceable =
                std::any_of(connections.begin(), connections.end(), [&](auto const& other) {
                    return can_ask(*other, block.piece_index) && other->download_queue().empty();
                });
            if (replaceable) peer->cancel_request(block, true);
        }
    }
    m_progress = std::move(now);
}

void Blame::request_blocks() {
    auto const torrent = m_handle.native_handle();
    if (!torrent || torrent->is_aborted() || !torrent->has_picker()) return;
    auto const connections = m_connections();
    free_pieces(*torrent, connections, [this](lt::peer_connection const& peer) {
        auto const found = m_progress.find(&peer);
        return found != m_progress.end() && found->second.silent >= max_silence;
    });
    for (auto const& peer : connections) {
        if (peer->is_disconnecting() || !peer->download_queue().empty()) continue;
        if (lt::request_a_block(*torrent, *peer)) peer->send_block_requests();
    }
}

}  // namespace silmaril
