#include "together.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <libtorrent/piece_picker.hpp>
#include <libtorrent/request_blocks.hpp>

#include "compat.h"

namespace silmaril {

namespace {

// Requests in addition to those that a round trip takes, so that the sender always has the next one.
constexpr int spare_requests = 64;

// Requests to a reader that has sent nothing so far.
constexpr int first_requests = 16;

// A reader announces a piece at least this often, or has just come.
constexpr auto reads_for = std::chrono::seconds(10);

// How many pieces of one kind the choice looks at: those of a window, or the first ones of a `get`.
constexpr std::size_t most_wanted = 64;

// For how long a list of wanted pieces or of readers is used.
constexpr auto list_lasts = std::chrono::milliseconds(50);

// A piece takes this long before one has come.
constexpr std::int64_t unknown_piece_time = 1000;

// A reader that would send a piece later than this does not count as its holder: twice the usual time, but at
// least two seconds.
constexpr std::int64_t least_slowness = 2000;

constexpr int most_readers = 32;

// The finalizer of splitmix64.
std::uint64_t mix(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
    return x ^ (x >> 31);
}

int requests_to(lt::peer_connection const& peer) {
    return int(peer.download_queue().size() + peer.request_queue().size());
}

std::int64_t received(lt::peer_connection const& peer) { return peer.statistics().total_payload_download(); }

int to_milliseconds(Clock::duration const time) {
    return int(std::chrono::duration_cast<std::chrono::milliseconds>(time).count());
}

// The blocks of a piece that no peer was asked for.
int free_blocks(lt::piece_picker const& picker, lt::piece_picker::downloading_piece const& state) {
    return picker.blocks_in_piece(state.index) - int(state.requested + state.writing + state.finished);
}

// Whether a request to the peer names the piece.
bool asked_for(lt::peer_connection const& peer, lt::piece_index_t const piece) {
    auto const names = [piece](lt::pending_block const& one) { return one.block.piece_index == piece; };
    return std::any_of(peer.download_queue().begin(), peer.download_queue().end(), names) ||
           std::any_of(peer.request_queue().begin(), peer.request_queue().end(), names);
}

}  // namespace

int choose(Choice const& choice, std::vector<WantedPiece> const& pieces) {
    int best = -1;
    std::pair<int, std::uint64_t> least;
    for (int i = 0; i < int(pieces.size()); ++i) {
        auto const& piece = pieces[i];
        if (piece.free == 0) continue;
        if (piece.begun) return i;
        bool const waits = piece.overdue >= 0;
        // A few blocks of a piece that another peer sends show whether an untested reader sends.
        if (piece.requested && (choice.seed || !choice.untested || waits)) continue;
        if (choice.seed) {
            if (waits && piece.overdue >= choice.patience) return i;
            if (piece.holders > 0 || piece.claimed) continue;
        } else if (waits && !choice.untested) {
            return i;
        }
        std::pair const rank(choice.seed ? 0 : piece.holders, mix(choice.salt ^ std::uint64_t(piece.piece)));
        if (best < 0 || rank < least) {
            best = i;
            least = rank;
        }
    }
    return best;
}

std::int64_t patience(int const readers, std::int64_t const piece_time, std::uint64_t const random) {
    auto const spread = std::max<std::int64_t>(piece_time, 100) * std::min(readers, most_readers);
    return spread / 4 + spread * std::int64_t(random % 1024) / 1024;
}

void Pace::tick(lt::peer_connection& peer) {
    m_round_trip = round_trip(peer);
    if (requests_to(peer) == 0) return;
    std::int64_t const rate = peer.statistics().download_payload_rate();
    m_rate = m_rate == 0 ? rate : (m_rate + rate) / 2;
}

bool Pace::reads(lt::peer_connection const& peer, Clock::time_point const now) const {
    if (peer.is_seed() || peer.is_disconnecting()) return false;
    bool const is_new = peer.num_have_pieces() == 0 && now - m_came < reads_for;
    return is_new || now - m_announced < reads_for;
}

int Pace::queue(lt::peer_connection const& peer) const {
    if (received(peer) == 0 && !peer.is_seed()) return first_requests;
    auto const rate = std::max<std::int64_t>(m_rate, peer.statistics().download_payload_rate());
    return int(rate * m_round_trip / 1'000'000 * 5 / 4 / lt::default_block_size) + spare_requests;
}

std::int64_t Pace::time_for(lt::peer_connection const& peer, std::int64_t const bytes) const {
    if (m_rate == 0) return 0;
    return (std::int64_t(requests_to(peer)) * lt::default_block_size + bytes) * 1000 / m_rate;
}

std::vector<Fellow> const& Together::readers(Clock::time_point const now) {
    if (now - m_readers_at < list_lasts) return m_readers;
    m_readers_at = now;
    m_readers = m_fellows();
    auto const others = [now](Fellow const& one) { return !one.pace->reads(*one.peer, now); };
    m_readers.erase(std::remove_if(m_readers.begin(), m_readers.end(), others), m_readers.end());
    return m_readers;
}

std::vector<Together::Want> Together::wants(lt::torrent& torrent, Clock::time_point const now) {
    std::vector<Want> found;
    auto const& picker = torrent.picker();
    for (auto const& one : torrent.time_critical_pieces()) {
        if (picker.have_piece(one.piece)) continue;
        auto const overdue = lt::clock_type::now() - one.deadline;
        found.push_back({one.piece, overdue.count() < 0 ? -1 : to_milliseconds(overdue)});
        if (found.size() == most_wanted) break;
    }
    if (now - m_wanted_at >= list_lasts) {
        m_wanted_at = now;
        // First the windows of readers, then what is fetched for a `get`.
        std::vector<lt::piece_index_t> ahead, bulk;
        int const ahead_priority = 4;
        for (lt::piece_index_t piece{0}; piece < torrent.torrent_file().end_piece(); ++piece) {
            if (ahead.size() == most_wanted && bulk.size() == most_wanted) break;
            if (picker.have_piece(piece)) continue;
            int const priority = int(static_cast<std::uint8_t>(picker.piece_priority(piece)));
            if (priority == 0 || priority == 7) continue;
            auto& list = priority >= ahead_priority ? ahead : bulk;
            if (list.size() < most_wanted) list.push_back(piece);
        }
        m_wanted = std::move(ahead);
        m_wanted.insert(m_wanted.end(), bulk.begin(), bulk.end());
    }
    for (auto const piece : m_wanted)
        if (!picker.have_piece(piece)) found.push_back({piece, -1});
    return found;
}

int Together::holders(lt::torrent const& torrent, lt::piece_index_t const piece) const {
    auto const bytes = torrent.torrent_file().piece_size(piece);
    auto const slow = std::max(least_slowness, 2 * m_piece_time);
    return int(std::count_if(m_readers.begin(), m_readers.end(), [&](Fellow const& one) {
        return one.peer->has_piece(piece) && received(*one.peer) > 0 && !one.peer->has_peer_choked() &&
               one.peer->can_request_time_critical() && one.pace->time_for(*one.peer, bytes) <= slow;
    }));
}

std::int64_t Together::patience_of(lt::piece_index_t const piece) const {
    auto const time = m_piece_time == 0 ? unknown_piece_time : m_piece_time;
    return patience(int(m_readers.size()), time, mix(m_salt ^ std::uint64_t(static_cast<int>(piece))));
}

bool Together::choose(lt::peer_connection& peer, Pace const& pace, std::vector<lt::piece_block>& blocks,
                      int const most) {
    auto const torrent = m_torrent.native_handle();
    auto const now = Clock::now();
    if (!torrent || !torrent->has_picker() || readers(now).empty()) return false;
    if (peer.has_peer_choked() || peer.on_parole()) return false;
    bool const untested = received(peer) == 0;
    int room = std::min(most, pace.queue(peer) - requests_to(peer));
    auto& picker = torrent->picker();
    std::vector<Want> wanted;
    while (room > 0) {
        if (wanted.empty()) wanted = wants(*torrent, now);
        std::vector<WantedPiece> pieces;
        std::vector<lt::piece_index_t> indexes;
        std::int64_t wait = 0;
        for (auto const& one : wanted) {
            if (!peer.has_piece(one.piece)) continue;
            lt::piece_picker::downloading_piece state;
            picker.piece_info(one.piece, state);
            state.index = one.piece;
            int const free = free_blocks(picker, state);
            if (free == 0) continue;
            if (one.overdue >= 0 && pieces.empty()) wait = patience_of(one.piece);
            pieces.push_back({static_cast<int>(one.piece), free, state.requested > 0,
                              asked_for(peer, one.piece), is_claimed(one.piece, now),
                              holders(*torrent, one.piece), one.overdue});
            indexes.push_back(one.piece);
        }
        // Nothing is left to choose: libtorrent requests the last blocks from further peers.
        if (pieces.empty() && blocks.empty() && requests_to(peer) == 0) return false;
        int const at = silmaril::choose({peer.is_seed(), untested, m_salt, wait}, pieces);
        if (at < 0) break;
        std::vector<lt::piece_block> free;
        std::vector<lt::piece_block> theirs;
        std::vector<lt::piece_index_t> none;
        picker.add_blocks(indexes[at], peer.get_bitfield(), free, theirs, theirs, room, 0,
                          peer.peer_info_struct(), none, {});
        free.insert(free.end(), theirs.begin(), theirs.end());
        if (free.empty()) break;
        if (int(free.size()) > room) free.resize(std::size_t(room));
        room -= int(free.size());
        blocks.insert(blocks.end(), free.begin(), free.end());
        m_begun.emplace(indexes[at], now);
        wanted.erase(std::find_if(wanted.begin(), wanted.end(),
                                  [&](Want const& one) { return one.piece == indexes[at]; }));
        if (wanted.empty()) break;
    }
    if (peer.is_seed() && !blocks.empty()) turn_soon();
    return true;
}

bool Together::is_claimed(lt::piece_index_t const piece, Clock::time_point const now) const {
    return std::any_of(m_readers.begin(), m_readers.end(),
                       [&](Fellow const& one) { return one.claims->has(static_cast<int>(piece), now); });
}

void Together::tell() {
    std::vector<int> pieces;
    auto const add = [&](lt::pending_block const& request) {
        auto const piece = static_cast<int>(request.block.piece_index);
        if (pieces.size() < Claims::most && std::find(pieces.begin(), pieces.end(), piece) == pieces.end())
            pieces.push_back(piece);
    };
    auto const fellows = m_fellows();
    for (auto const& one : fellows) {
        if (!one.peer->is_seed()) continue;
        std::for_each(one.peer->download_queue().begin(), one.peer->download_queue().end(), add);
        std::for_each(one.peer->request_queue().begin(), one.peer->request_queue().end(), add);
    }
    std::sort(pieces.begin(), pieces.end());
    if (pieces == m_told || !m_messages.spend(Clock::now())) return;
    m_told = pieces;
    auto const body = Claims::message(pieces);
    for (auto const& one : fellows) {
        if (one.claims_id == 0 || one.peer->is_seed() || one.peer->is_disconnecting()) continue;
        std::vector<char> frame{0, 0, 0, char(body.size() + 2), char(20), char(one.claims_id)};
        frame.insert(frame.end(), body.begin(), body.end());
        one.peer->send_buffer({frame.data(), std::ptrdiff_t(frame.size())});
    }
}

bool Together::holds_back(lt::piece_index_t const piece, lt::time_point const deadline) {
    if (readers(Clock::now()).empty()) return false;
    return lt::clock_type::now() - deadline < std::chrono::milliseconds(patience_of(piece));
}

void Together::claimed(Claims& claims, lt::span<char const> const body) {
    claims.replace(body, m_piece_time == 0 ? unknown_piece_time : m_piece_time, Clock::now());
}

void Together::passed(lt::piece_index_t const piece) {
    turn_soon();
    auto const begun = m_begun.find(piece);
    if (begun == m_begun.end()) return;
    auto const took = to_milliseconds(Clock::now() - begun->second);
    m_piece_time = m_piece_time == 0 ? took : (3 * m_piece_time + took) / 4;
    m_begun.erase(begun);
}

void Together::tick() {
    auto const old = [now = Clock::now()](auto const& one) {
        return now - one.second > std::chrono::minutes(1);
    };
    for (auto one = m_begun.begin(); one != m_begun.end();) one = old(*one) ? m_begun.erase(one) : ++one;
    if (!readers(Clock::now()).empty()) turn_soon();
}

void Together::turn_soon() {
    auto const torrent = m_torrent.native_handle();
    if (m_turn || !torrent || torrent->is_seed()) return;
    m_turn = true;
    boost::asio::post(torrent->session().get_context(), [weak = weak_from_this()] {
        if (auto const self = weak.lock()) self->turn();
    });
}

void Together::turn() {
    m_turn = false;
    auto const torrent = m_torrent.native_handle();
    if (!torrent || torrent->is_aborted() || !torrent->has_picker()) return;
    m_readers_at = {};
    if (readers(Clock::now()).empty()) return;
    // Readers first: a seed is asked for what they do not have.
    auto fellows = m_fellows();
    std::stable_partition(fellows.begin(), fellows.end(),
                          [](Fellow const& one) { return !one.peer->is_seed(); });
    for (auto const& one : fellows)
        if (!one.peer->is_disconnecting() && lt::request_a_block(*torrent, *one.peer))
            one.peer->send_block_requests();
    tell();
}

}  // namespace silmaril
