#include "parts.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <libtorrent/piece_picker.hpp>
#include <libtorrent/request_blocks.hpp>
#include <libtorrent/torrent_peer.hpp>
#include <utility>

namespace silmaril {

namespace {

// Peers that are asked for the same hashes at a time.
constexpr int asked_at_once = 2;

// Seconds after which hashes that no peer has sent are given up.
constexpr int hashes_within = 2;

// Peers from which the same block is requested.
constexpr int senders_of_block = 3;

// Requests for hashes whose pieces are remembered.
constexpr std::size_t max_asked = 512;

// Seconds after which a block in the file that nothing judges is fetched again.
constexpr int judged_within = 3;

constexpr int per_granule = 4;

bool has(lt::peer_connection const& peer, int piece) {
    return !peer.is_disconnecting() && peer.has_piece(lt::piece_index_t(piece));
}

// Whether a block of the piece can be requested from the peer.
bool can_send(lt::peer_connection const& peer, int piece) {
    auto const* const info = peer.peer_info_struct();
    return has(peer, piece) && !peer.has_peer_choked() && info && !info->on_parole;
}

bool was_asked(lt::peer_connection const& peer, lt::piece_block const& block) {
    auto const is_it = [&block](lt::pending_block const& pending) { return pending.block == block; };
    auto const& sent = peer.download_queue();
    auto const& queued = peer.request_queue();
    return std::any_of(sent.begin(), sent.end(), is_it) || std::any_of(queued.begin(), queued.end(), is_it);
}

}  // namespace

void Parts::open(lt::torrent_handle handle, Sources sources, Left left) {
    m_handle = std::move(handle);
    m_sources = std::move(sources);
    m_left = std::move(left);
    auto const weak = weak_from_this();
    m_proof->blocks.wrong = [weak](int piece, int block) {
        if (auto const self = weak.lock()) self->wrong(piece, block);
    };
    m_proof->blocks.whole = [weak](int piece) {
        auto const self = weak.lock();
        auto const torrent = self ? self->torrent() : nullptr;
        if (torrent) self->give_back(*torrent, piece);
    };
}

void Parts::close() {
    m_sources = nullptr;
    m_left = nullptr;
    m_wanted.clear();
    m_held->close();
    m_proof->blocks.wrong = nullptr;
    m_proof->blocks.whole = nullptr;
}

std::shared_ptr<lt::torrent> Parts::torrent() const {
    auto torrent = m_handle.native_handle();
    return torrent && !torrent->is_aborted() && torrent->valid_metadata() ? torrent : nullptr;
}

std::vector<Parts::Source> Parts::sources_of(int piece) const {
    if (!m_sources) return {};
    auto sources = m_sources();
    sources.erase(std::remove_if(sources.begin(), sources.end(),
                                 [piece](Source const& source) { return !has(*source.connection, piece); }),
                  sources.end());
    std::stable_sort(sources.begin(), sources.end(), [](Source const& a, Source const& b) {
        return a.connection->download_queue_time(block_size) < b.connection->download_queue_time(block_size);
    });
    return sources;
}

void Parts::request(lt::torrent& torrent, int piece, std::vector<bool> const& blocks, int milliseconds) {
    lt::piece_index_t const index{piece};
    if (torrent.is_aborted() || !torrent.valid_metadata()) return;
    torrent.need_picker();
    if (torrent.picker().have_piece(index)) return;
    give_back(torrent, piece);
    m_proof->blocks.watch(piece);
    auto& wanted = m_wanted[piece];
    wanted.blocks.resize(std::max(wanted.blocks.size(), blocks.size()));
    for (std::size_t i = 0; i < blocks.size(); ++i)
        if (blocks[i]) wanted.blocks[i] = true;
    wanted.whole = false;
    torrent.picker().restrict_piece(index, wanted.blocks);
    torrent.set_piece_deadline(index, milliseconds, {});
    if (ask(piece, wanted))
        request_blocks(torrent, piece);
    else
        give_up(piece);
}

void Parts::lift(lt::torrent& torrent, int piece, bool wanted) {
    m_wanted.erase(piece);
    if (!wanted) m_held->cancel(piece);
    lt::piece_index_t const index{piece};
    if (torrent.is_aborted() || !torrent.valid_metadata()) return;
    if (wanted) {
        torrent.need_picker();
        torrent.picker().lift_restriction(index);
        if (!torrent.picker().have_piece(index)) give_back(torrent, piece);
        return;
    }
    if (!torrent.has_picker()) return;
    auto& picker = torrent.picker();
    picker.lift_restriction(index);
    // The picker's state of a piece is large. Kept blocks are known without it.
    lt::piece_picker::downloading_piece state;
    picker.piece_info(index, state);
    if (state.locked || state.requested > 0 || state.writing > 0 || picker.is_hashing(index) ||
        picker.have_piece(index) || picker.is_piece_finished(index))
        return;
    auto const kept = m_proof->blocks.kept(piece);
    int const count = int(std::count(kept.begin(), kept.end(), true));
    if (state.finished > 0 && state.finished <= count) {
        for (int block = 0; block < int(kept.size()); ++block)
            if (!kept[std::size_t(block)] && picker.is_downloaded({index, block})) return;
        picker.restore_piece(index);
    }
}

void Parts::withdraw(lt::torrent& torrent, Held::Barred const& pieces) {
    for (auto const& [piece, bar] : pieces) lift(torrent, piece, false);
    m_held->withdraw(torrent, pieces);
}

void Parts::give_back(lt::torrent& torrent, int piece) {
    lt::piece_index_t const index{piece};
    auto const kept = m_proof->blocks.kept(piece);
    if (kept.empty()) return;
    torrent.need_picker();
    auto& picker = torrent.picker();
    if (picker.have_piece(index) || picker.is_hashing(index)) return;
    bool const before = picker.is_piece_finished(index);
    for (int block = 0; block < int(kept.size()); ++block) {
        lt::piece_block const at{index, block};
        if (kept[std::size_t(block)] && !picker.is_downloaded(at) && !picker.is_requested(at))
            picker.mark_as_finished(at, nullptr);
    }
    if (!before && picker.is_piece_finished(index)) torrent.verify_piece(index);
}

bool Parts::lacks_hashes(int piece, Wanted const& wanted) const {
    for (int block = 0; block < int(wanted.blocks.size()); ++block)
        if (wanted.blocks[std::size_t(block)] && !m_proof->blocks.hash(piece, block)) return true;
    return false;
}

std::optional<std::pair<int, int>> Parts::unasked(int piece, Wanted const& wanted) const {
    auto const is_unasked = [&](int block) {
        auto const at = std::size_t(block);
        return wanted.blocks[at] && !wanted.covered[at] && !m_proof->blocks.hash(piece, block);
    };
    int const count = int(wanted.blocks.size());
    int first = 0;
    while (first < count && !is_unasked(first)) ++first;
    if (first == count) return std::nullopt;
    int last = first;
    while (last + 1 < count && is_unasked(last + 1)) ++last;
    return std::pair(first, last);
}

void Parts::cover(HashRange const& range, Wanted& wanted) const {
    auto const first = range.index % m_proof->blocks_per_piece();
    auto const end = std::min(first + range.count, std::int64_t(wanted.covered.size()));
    for (auto block = first; block < end; ++block) wanted.covered[std::size_t(block)] = true;
}

void Parts::uncover(Wanted& wanted) const {
    wanted.covered.assign(wanted.blocks.size(), false);
    for (auto const& [peer, range] : wanted.pending) cover(range, wanted);
}

bool Parts::ask(int piece, Wanted& wanted) {
    wanted.covered.resize(wanted.blocks.size());
    auto const sources = sources_of(piece);
    while (auto const blocks = unasked(piece, wanted)) {
        auto const range = m_proof->range_of(piece, blocks->first, blocks->second);
        if (!range) return false;
        int asked = 0;
        bool later = false;
        for (auto const& source : sources) {
            if (asked >= asked_at_once) break;
            auto const* const info = source.connection->peer_info_struct();
            if (!info || !info->protocol_v2 || wanted.refused.count(source.connection.get()) > 0) continue;
            if (!source.ask(*range)) {
                later = true;
                continue;
            }
            m_asked.emplace_back(*range, piece);
            if (m_asked.size() > max_asked) m_asked.pop_front();
            wanted.pending.emplace_back(source.connection.get(), *range);
            ++asked;
        }
        if (asked == 0) {
            m_later |= later;
            return later || !wanted.pending.empty() || sources.empty();
        }
        cover(*range, wanted);
    }
    return true;
}

void Parts::ask_later() {
    if (!std::exchange(m_later, false)) return;
    for (auto& [piece, wanted] : m_wanted)
        if (!wanted.whole) ask(piece, wanted);
}

void Parts::request_blocks(lt::torrent& torrent, int piece) {
    auto const wanted = m_wanted.find(piece);
    if (wanted == m_wanted.end() || torrent.upload_mode() || !torrent.are_files_checked()) return;
    auto& picker = torrent.picker();
    lt::piece_index_t const index{piece};
    lt::piece_picker::downloading_piece state;
    picker.piece_info(index, state);
    if (state.locked || picker.is_hashing(index) || picker.piece_priority(index) == lt::dont_download) return;
    bool const left = wanted->second.whole && m_left && m_left(piece);
    auto sources = sources_of(piece);
    std::set<lt::peer_connection*> used;
    std::shared_ptr<lt::peer_connection> sender;
    for (int block = 0; block < int(wanted->second.blocks.size()); ++block) {
        lt::piece_block const at{index, block};
        if (block % per_granule == 0) sender = nullptr;
        if (!wanted->second.blocks[std::size_t(block)] || picker.is_downloaded(at)) continue;
        bool const busy = picker.is_requested(at);
        if (left && !busy) continue;
        if (busy && (picker.num_peers(at) >= senders_of_block ||
                     std::any_of(sources.begin(), sources.end(), [&](Source const& source) {
                         return was_asked(*source.connection, at) && !m_late.is_silent(*source.connection);
                     })))
            continue;
        if (!sender || was_asked(*sender, at)) {
            auto const free = std::find_if(sources.begin(), sources.end(), [&](Source const& source) {
                return can_send(*source.connection, piece) && !was_asked(*source.connection, at) &&
                       (!busy || !m_late.is_silent(*source.connection));
            });
            if (free == sources.end()) continue;
            sender = free->connection;
            // The next granule may come from the next peer.
            std::rotate(free, free + 1, sources.end());
        }
        auto const flags =
            lt::peer_connection::time_critical | (busy ? lt::peer_connection::busy : lt::request_flags_t{});
        if (sender->add_request(at, flags)) used.insert(sender.get());
    }
    for (auto* const peer : used) peer->send_block_requests();
}

void Parts::expect(lt::torrent& torrent, int piece) {
    if (!torrent.has_picker() || torrent.picker().have_piece(lt::piece_index_t(piece))) return;
    auto& wanted = m_wanted[piece];
    wanted.whole = true;
    wanted.blocks.assign(std::size_t(m_proof->blocks.blocks_in(piece)), true);
}

bool Parts::is_awaited(lt::torrent& torrent, lt::piece_block const& block) const {
    auto const wanted = m_wanted.find(static_cast<int>(block.piece_index));
    if (wanted == m_wanted.end()) return false;
    auto const& blocks = wanted->second.blocks;
    auto const at = std::size_t(block.block_index);
    return at < blocks.size() && blocks[at] && !torrent.picker().is_downloaded(block);
}

void Parts::free_unproved(lt::torrent& torrent, int piece, Wanted& wanted) {
    lt::piece_index_t const index{piece};
    auto& picker = torrent.picker();
    std::vector<int> found;
    for (int block = 0; block < int(wanted.blocks.size()); ++block)
        if (wanted.blocks[std::size_t(block)] && picker.is_finished({index, block}) &&
            m_proof->blocks.hash(piece, block) && !m_proof->blocks.keeps(piece, block))
            found.push_back(block);
    if (found.empty() || picker.is_hashing(index)) {
        wanted.unproved = 0;
    } else if (++wanted.unproved > judged_within) {
        wanted.unproved = 0;
        picker.restore_piece(index, found);
    }
}

void Parts::hurry(lt::torrent& torrent, int piece) {
    auto const wanted = m_wanted.find(piece);
    if (wanted != m_wanted.end() && !wanted->second.whole) return request_blocks(torrent, piece);
    lt::piece_index_t const index{piece};
    if (torrent.upload_mode() || !torrent.has_picker() || torrent.picker().have_piece(index) ||
        torrent.picker().piece_priority(index) == lt::dont_download)
        return;
    for (auto const& source : sources_of(piece)) {
        auto& peer = *source.connection;
        if (!peer.is_disconnecting() && lt::request_a_block(torrent, peer)) peer.send_block_requests();
    }
}

void Parts::give_up(int piece) {
    m_wanted.erase(piece);
    m_refused(piece);
}

void Parts::answered(Peer peer, HashRange const& range, bool proved) {
    std::set<int> pieces;  // several files may have the same hashes
    for (auto const& [asked, piece] : m_asked)
        if (asked == range) pieces.insert(piece);
    auto const torrent = this->torrent();
    for (int const piece : pieces) {
        if (proved && m_proof->blocks.came) m_proof->blocks.came(piece);
        auto const found = m_wanted.find(piece);
        if (!torrent || !torrent->has_picker() || found == m_wanted.end()) continue;
        auto& wanted = found->second;
        auto const pending = std::find(wanted.pending.begin(), wanted.pending.end(), std::pair(peer, range));
        if (pending == wanted.pending.end() || wanted.whole) continue;
        wanted.pending.erase(pending);
        if (!proved) wanted.refused.insert(peer);
        uncover(wanted);
        if (!ask(piece, wanted)) give_up(piece);
    }
    ask_later();
}

void Parts::peer_gone(Peer peer) {
    for (auto& [piece, wanted] : m_wanted) {
        // Another connection may get the same address.
        wanted.refused.erase(peer);
        auto const is_gone = [peer](auto const& pending) { return pending.first == peer; };
        auto& pending = wanted.pending;
        pending.erase(std::remove_if(pending.begin(), pending.end(), is_gone), pending.end());
        uncover(wanted);
    }
    peer_ready();
}

void Parts::peer_ready() {
    // Posted, so that libtorrent has processed the peer's message.
    auto const torrent = this->torrent();
    if (!torrent || m_wanted.empty()) return;
    boost::asio::post(torrent->session().get_context(), [weak = weak_from_this()] {
        auto const self = weak.lock();
        auto const torrent = self ? self->torrent() : nullptr;
        if (!torrent || !torrent->has_picker()) return;
        for (auto& [piece, wanted] : self->m_wanted) {
            if (wanted.whole) continue;
            self->ask(piece, wanted);
            self->request_blocks(*torrent, piece);
        }
    });
}

void Parts::tick() {
    auto const torrent = this->torrent();
    if (!torrent || !torrent->has_picker() || m_wanted.empty()) return m_late.clear();
    Late::Peers peers;
    for (auto const& source : m_sources()) peers.push_back(source.connection);
    m_late.tick(peers, [&](lt::piece_block const& block) { return is_awaited(*torrent, block); });
    std::vector<int> hopeless;
    for (auto wanted = m_wanted.begin(); wanted != m_wanted.end();) {
        auto const piece = wanted->first;
        if (torrent->picker().have_piece(lt::piece_index_t(piece))) {
            wanted = m_wanted.erase(wanted);
            continue;
        }
        auto& state = wanted->second;
        if (state.whole) {
            request_blocks(*torrent, piece);
            ++wanted;
            continue;
        }
        bool const lacks = lacks_hashes(piece, state);
        state.waited += lacks && !sources_of(piece).empty();
        // Peers that have not answered within a second count as refusing.
        if (state.waited > 1)
            for (auto const& [peer, range] : std::exchange(state.pending, {})) state.refused.insert(peer);
        // Known hashes may be dropped before their blocks arrive.
        uncover(state);
        bool const asks = ask(piece, state);
        free_unproved(*torrent, piece, state);
        request_blocks(*torrent, piece);
        if (!asks || (state.waited > hashes_within && lacks)) hopeless.push_back(piece);
        ++wanted;
    }
    for (int const piece : hopeless) give_up(piece);
}

void Parts::wrong(int piece, int block) {
    auto const torrent = this->torrent();
    if (!torrent || !torrent->has_picker()) return;
    lt::piece_index_t const index{piece};
    auto& picker = torrent->picker();
    if (picker.have_piece(index)) return;
    auto const senders = picker.get_downloaders(index);
    auto* const sender = std::size_t(block) < senders.size() ? senders[std::size_t(block)] : nullptr;
    if (sender) torrent->penalize_peers({sender}, index, true);
    if (!torrent->has_picker()) return;
    lt::piece_picker::downloading_piece state;
    picker.piece_info(index, state);
    // A block that is still being written is freed by libtorrent. A piece that is being hashed fails.
    bool const free = !state.locked && !picker.is_hashing(index) && !picker.is_piece_finished(index);
    if (free && picker.is_finished({index, block})) {
        std::vector<int> const blocks{block};
        picker.restore_piece(index, blocks);
    }
    boost::asio::post(torrent->session().get_context(), [weak = weak_from_this(), piece] {
        auto const self = weak.lock();
        auto const torrent = self ? self->torrent() : nullptr;
        if (torrent && torrent->has_picker()) self->request_blocks(*torrent, piece);
    });
}

}  // namespace silmaril
