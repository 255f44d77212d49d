#include "parts.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <libtorrent/piece_picker.hpp>
#include <libtorrent/request_blocks.hpp>
#include <libtorrent/torrent_peer.hpp>
#include <utility>

namespace silmaril {

namespace {

// Seconds after which hashes that no peer has sent are given up.
constexpr int hashes_within = 2;

// Peers from which the same block is requested.
constexpr int senders_of_block = 3;

// Requests for hashes whose pieces are remembered.
constexpr std::size_t max_asked = 512;

// Seconds after which a block in the file that nothing judges is fetched again.
constexpr int judged_within = 3;

// Peers that are asked for the hashes of the granules of one piece, and for those of a granule with a wrong
// block; and how long the first ones are waited for.
constexpr std::size_t asked_for_granules = 4;
constexpr int asked_for_suspects = 2;
constexpr auto granules_within = std::chrono::seconds(1);

// A source that is ready.
struct Candidate {
    Source const* source;
    bool silent;
};

}  // namespace

void Parts::open(lt::torrent_handle handle, Sources sources, Left left) {
    m_handle = std::move(handle);
    m_sources = std::move(sources);
    m_left = std::move(left);
    auto const weak = weak_from_this();
    m_proof->blocks.wrong = [weak](int piece, int block, Sender const& sender) {
        if (auto const self = weak.lock()) self->wrong(piece, block, sender);
    };
    m_proof->blocks.suspect = [weak](int piece, int granule) {
        if (auto const self = weak.lock()) self->suspect(piece, granule);
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
    m_passed.clear();
    m_held->close();
    m_proof->blocks.wrong = nullptr;
    m_proof->blocks.suspect = nullptr;
    m_proof->blocks.whole = nullptr;
}

std::shared_ptr<lt::torrent> Parts::torrent() const {
    auto torrent = m_handle.native_handle();
    return torrent && !torrent->is_aborted() && torrent->valid_metadata() ? torrent : nullptr;
}

std::vector<Source> Parts::sources_of(int piece) const {
    if (!m_sources) return {};
    auto sources = m_sources();
    sources.erase(std::remove_if(sources.begin(), sources.end(),
                                 [piece](Source const& source) { return !source.has_some(piece); }),
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
    auto& wanted = wanted_of(piece);
    wanted.blocks.resize(std::max(wanted.blocks.size(), blocks.size()));
    for (std::size_t i = 0; i < blocks.size(); ++i)
        if (blocks[i]) wanted.blocks[i] = true;
    wanted.whole = false;
    torrent.picker().restrict_piece(index, wanted.blocks);
    m_urgent.set_deadline(torrent, index, milliseconds);
    if (ask(piece, wanted))
        request_blocks(torrent, piece);
    else
        give_up(piece);
}

void Parts::lift(lt::torrent& torrent, int piece, bool wanted) {
    m_wanted.erase(piece);
    if (!wanted) {
        m_held->cancel(piece);
        m_passed.erase(piece);
        m_proof->blocks.end_whole(piece);
    }
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

bool Parts::ask(int piece, Wanted& wanted) {
    auto const sent = [this, piece](HashRange const& range) {
        m_asked.emplace_back(range, piece);
        if (m_asked.size() > max_asked) m_asked.pop_front();
    };
    auto const asked = wanted.hashes.ask(*m_proof, wanted.blocks, sources_of(piece), sent);
    m_later |= asked == HashRequests::Asked::later;
    return asked != HashRequests::Asked::refused;
}

void Parts::ask_later() {
    if (!std::exchange(m_later, false)) return;
    for (auto& [piece, wanted] : m_wanted)
        if (!wanted.whole) ask(piece, wanted);
}

void Parts::advance(lt::torrent& torrent, int piece, Wanted& wanted) {
    if (wanted.whole) {
        bool anyone = false, offers = false;
        for (auto const& one : sources_of(piece)) {
            anyone |= one.has(piece) && !m_late.is_silent(*one.connection);
            offers |= !one.has(piece);
        }
        if (anyone || !offers) return;
        m_proof->blocks.watch(piece, true);
    }
    ask(piece, wanted);
    request_blocks(torrent, piece);
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
    auto const sources = sources_of(piece);
    auto const asked = asked_for(sources, piece, wanted->second.blocks.size());
    std::vector<Candidate> candidates;
    for (auto const& source : sources)
        if (source.is_ready()) candidates.push_back({&source, m_late.is_silent(*source.connection)});
    std::set<lt::peer_connection*> used;
    Source const* sender = nullptr;
    for (int block = 0; block < int(wanted->second.blocks.size()); ++block) {
        lt::piece_block const at{index, block};
        if (block % per_granule == 0) sender = nullptr;
        if (!wanted->second.blocks[std::size_t(block)] || picker.is_downloaded(at)) continue;
        bool const busy = picker.is_requested(at);
        if (left && !busy) continue;
        auto const& senders = asked[std::size_t(block)];
        auto const was_asked = [&senders](Source const& source) {
            return std::find(senders.begin(), senders.end(), source.connection.get()) != senders.end();
        };
        if (busy && (picker.num_peers(at) >= senders_of_block ||
                     std::any_of(senders.begin(), senders.end(), [this](lt::peer_connection const* peer) {
                         return !m_late.is_silent(*peer);
                     })))
            continue;
        if (!sender || was_asked(*sender)) {
            sender = nullptr;
            auto const free = std::find_if(candidates.begin(), candidates.end(), [&](Candidate const& one) {
                return !(busy && one.silent) && one.source->has(piece, block, block) &&
                       !was_asked(*one.source);
            });
            if (free == candidates.end()) continue;
            sender = free->source;
            // The next granule may come from the next peer.
            std::rotate(free, free + 1, candidates.end());
        }
        auto const flags =
            lt::peer_connection::time_critical | (busy ? lt::peer_connection::busy : lt::request_flags_t{});
        if (sender->connection->add_request(at, flags)) used.insert(sender->connection.get());
    }
    for (auto* const peer : used) peer->send_block_requests();
}

void Parts::expect(lt::torrent& torrent, int piece) {
    if (!torrent.has_picker() || torrent.picker().have_piece(lt::piece_index_t(piece))) return;
    auto& wanted = wanted_of(piece);
    wanted.whole = true;
    wanted.blocks.assign(std::size_t(m_proof->blocks.blocks_in(piece)), true);
    advance(torrent, piece, wanted);
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

void Parts::pass_on(lt::torrent& torrent, int piece, Peer peer) {
    if (m_proof->blocks.is_barred(piece)) return;
    auto const now = Clock::now();
    auto& passed = m_passed[piece];
    if (now < passed.next || passed.asked.size() >= asked_for_granules || passed.asked.count(peer) > 0)
        return;
    auto const range = m_proof->granules_of(piece);
    if (!range || torrent.picker().is_restricted(lt::piece_index_t(piece))) return;
    m_proof->blocks.watch(piece, true);
    if (m_proof->blocks.granule(piece, 0)) return;
    for (auto const& source : sources_of(piece)) {
        if (source.connection.get() != peer || !source.ask(*range)) continue;
        passed.asked.insert(peer);
        passed.next = now + granules_within;
    }
}

void Parts::suspect(int piece, int granule) {
    auto const torrent = this->torrent();
    int const first = granule * per_granule;
    int const last = std::min(first + per_granule, m_proof->blocks.blocks_in(piece)) - 1;
    auto const range = m_proof->range_of(piece, first, last);
    if (!torrent || !range) return;
    int asked = 0;
    for (auto const& source : sources_of(piece)) {
        if (asked == asked_for_suspects) break;
        if (!source.has(piece, first, last) || !source.ask(*range)) continue;
        m_asked.emplace_back(*range, piece);
        if (m_asked.size() > max_asked) m_asked.pop_front();
        ++asked;
    }
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
        if (!wanted.hashes.answered(peer, range, proved)) continue;
        if (proved)
            for (auto const& source : sources_of(piece))
                if (source.connection.get() == peer) wanted.hashes.ask_for_granules(*m_proof, source);
        if (!wanted.whole && !ask(piece, wanted)) give_up(piece);
    }
    ask_later();
}

void Parts::peer_gone(Peer peer) {
    for (auto& [piece, wanted] : m_wanted) wanted.hashes.peer_gone(peer);
    for (auto& [piece, passed] : m_passed) passed.asked.erase(peer);
    peer_ready();
}

void Parts::peer_ready() {
    // Later, so that libtorrent has processed the peer's message.
    auto const torrent = this->torrent();
    if (torrent && !m_wanted.empty()) m_soon->need(torrent->session().get_context());
}

void Parts::advance_all() {
    auto const torrent = this->torrent();
    if (!torrent || !torrent->has_picker()) return;
    for (auto& [piece, wanted] : m_wanted) advance(*torrent, piece, wanted);
}

void Parts::tick() {
    auto const torrent = this->torrent();
    for (auto passed = m_passed.begin(); passed != m_passed.end();) {
        lt::piece_index_t const index{passed->first};
        bool const over = !torrent || !torrent->has_picker() || torrent->picker().have_piece(index);
        passed = over ? m_passed.erase(passed) : std::next(passed);
    }
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
            advance(*torrent, piece, state);
            request_blocks(*torrent, piece);
            ++wanted;
            continue;
        }
        bool const lacks = lacks_hashes(piece, state);
        auto const sources = sources_of(piece);
        state.waited += lacks && std::any_of(sources.begin(), sources.end(),
                                             [piece](Source const& one) { return one.has(piece); });
        // Peers that have not answered within a second count as refusing.
        if (state.waited > 1) state.hashes.give_up_pending();
        bool const asks = ask(piece, state);
        free_unproved(*torrent, piece, state);
        request_blocks(*torrent, piece);
        if (!asks || (state.waited > hashes_within && lacks)) hopeless.push_back(piece);
        ++wanted;
    }
    for (int const piece : hopeless) give_up(piece);
}

void Parts::wrong(int piece, int block, Sender const& sender) {
    auto const torrent = this->torrent();
    if (!torrent || !torrent->has_picker()) return;
    lt::piece_index_t const index{piece};
    auto& picker = torrent->picker();
    // A requested block was freed since, and its sender is unknown.
    if (picker.have_piece(index) || picker.is_requested({index, block})) return;
    auto const senders = picker.get_downloaders(index);
    auto* const latest = std::size_t(block) < senders.size() ? senders[std::size_t(block)] : nullptr;
    auto const observer = sender.lock();
    auto* const connection = static_cast<lt::peer_connection*>(observer.get());
    // The block may have been freed when its sender was banned, and another peer has sent it since.
    bool const replaced = latest && latest->connection != connection;
    auto* const liar = connection ? connection->peer_info_struct() : replaced ? nullptr : latest;
    if (liar) torrent->penalize_peers({liar}, index, true);
    if (replaced || !torrent->has_picker()) return;
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
