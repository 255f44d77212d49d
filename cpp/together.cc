#include "together.h"

#include <algorithm>
#include <libtorrent/peer_connection_handle.hpp>
#include <libtorrent/piece_picker.hpp>
#include <libtorrent/request_blocks.hpp>
#include <numeric>
#include <utility>

#include "choice.h"
#include "compat.h"
#include "flow.h"
#include "frame.h"
#include "urgent.h"

namespace silmaril {

namespace {

// How many pieces of one kind the choice looks at: those of a window, or the first ones of a `get`.
constexpr std::size_t most_wanted = 64;

// The highest priority. Its pieces have deadlines.
constexpr int deadline_priority = 7;

// For how long a list of wanted pieces or of readers is used.
constexpr auto list_lasts = std::chrono::milliseconds(50);

// A piece takes this long before one has come, in milliseconds.
constexpr std::int64_t unknown_piece_time = 1000;

// If each seed has fewer readers than this, reads that wait ask the seeds immediately.
constexpr std::ptrdiff_t readers_of_a_seed = 2;

// From so many readers on, several of them request the same piece from a seed, so they should not all begin
// with its first part. With fewer, random parts make the slowest reader slower.
constexpr std::size_t many_readers = 16;

// Seconds without another reader, after which a `get` fetches its pieces in order, because another reader may
// be about to connect.
constexpr int alone_for = 3;

// Claims that count of the peers of one address group.
constexpr std::size_t claims_of_group = 8;

std::uint32_t number_of(lt::piece_index_t const piece) { return std::uint32_t(static_cast<int>(piece)); }

std::int64_t milliseconds(lt::time_duration const time) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(time).count();
}

template <class Call>
void each_request(lt::peer_connection const& peer, Call const& call) {
    for (auto const& one : peer.download_queue()) call(one.block.piece_index);
    for (auto const& one : peer.request_queue()) call(one.block.piece_index);
}

}  // namespace

std::vector<Fellow> const& Together::readers(Clock::time_point const now) {
    if (now - m_readers_at < list_lasts) return m_readers;
    m_readers_at = now;
    m_all = m_fellows();
    m_readers.clear();
    std::map<std::shared_ptr<Group>, std::size_t> claims;
    for (auto one : m_all) {
        if (one.peer->is_seed() || one.peer->is_disconnecting() || !one.pace->reads(now)) continue;
        if (one.group && one.counts)
            one.counts = (claims[one.group] += one.claims->pieces(now).size()) <= claims_of_group;
        m_readers.push_back(std::move(one));
    }
    auto const count = int(m_readers.size());
    if (std::exchange(m_reported, count) != count) m_read(count);
    return m_readers;
}

std::vector<Together::Want> Together::wants(lt::torrent& torrent, Clock::time_point const now) {
    std::vector<Want> found;
    auto const& picker = torrent.picker();
    auto const is_wanted = [&picker](lt::piece_index_t const piece) {
        // The blocks of a restricted piece are requested by Parts.
        return !picker.have_piece(piece) && !picker.is_restricted(piece) &&
               picker.piece_priority(piece) != lt::dont_download;
    };
    for (auto const& one : torrent.time_critical_pieces()) {
        if (!is_wanted(one.piece)) continue;
        auto const overdue = lt::clock_type::now() - one.deadline;
        found.push_back({one.piece, overdue.count() < 0 ? -1 : milliseconds(overdue)});
        if (found.size() == most_wanted) break;
    }
    if (now - m_wanted_at >= list_lasts) {
        m_wanted_at = now;
        // First the windows of readers, then what is fetched for a `get`.
        std::vector<lt::piece_index_t> ahead, bulk;
        for (lt::piece_index_t piece{0}; piece < torrent.torrent_file().end_piece(); ++piece) {
            if (ahead.size() == most_wanted && bulk.size() == most_wanted) break;
            if (!is_wanted(piece)) continue;
            int const priority = int(static_cast<std::uint8_t>(picker.piece_priority(piece)));
            if (priority == deadline_priority) continue;
            auto& list = priority >= window_priority ? ahead : bulk;
            if (list.size() < most_wanted) list.push_back(piece);
        }
        m_wanted = std::move(ahead);
        m_wanted.insert(m_wanted.end(), bulk.begin(), bulk.end());
    }
    for (auto const piece : m_wanted)
        if (is_wanted(piece)) found.push_back({piece, -1});
    return found;
}

std::set<lt::piece_index_t> Together::requested(lt::peer_connection const& peer,
                                                Clock::time_point const now) const {
    std::set<lt::piece_index_t> pieces;
    for (auto const& one : m_all)
        if (one.peer.get() != &peer && keeps_up(one, now) &&
            (one.peer->is_seed() || m_supply.readers_suffice()))
            each_request(*one.peer, [&pieces](lt::piece_index_t const piece) { pieces.insert(piece); });
    return pieces;
}

int Together::holders(lt::piece_index_t const piece, Clock::time_point const now) const {
    if (!m_supply.readers_suffice()) return 0;
    return int(std::count_if(m_readers.begin(), m_readers.end(), [&](Fellow const& one) {
        return one.peer->has_piece(piece) && received(*one.peer) > 0 &&
               one.peer->can_request_time_critical() && keeps_up(one, now);
    }));
}

bool Together::keeps_up(Fellow const& one, Clock::time_point const now) const {
    return one.pace->keeps_up(requests_to(*one.peer), m_piece_time, now);
}

int Together::before(lt::piece_index_t const piece) const {
    auto const own = place(m_number, number_of(piece));
    return int(std::count_if(m_readers.begin(), m_readers.end(), [&](Fellow const& one) {
        return !one.peer->has_piece(piece) && one.claims->number() &&
               place(*one.claims->number(), number_of(piece)) < own;
    }));
}

bool Together::spares_seeds(lt::torrent const& torrent, Clock::time_point const now) const {
    // A peer can announce what it does not have, so a seed counts after it has sent a piece.
    auto const piece = torrent.torrent_file().piece_length();
    auto const seeds = std::count_if(m_all.begin(), m_all.end(), [&](Fellow const& one) {
        return one.peer->is_seed() && received(*one.peer) >= piece && keeps_up(one, now);
    });
    return seeds * readers_of_a_seed <= std::ptrdiff_t(m_readers.size());
}

std::int64_t Together::patience_of(lt::piece_index_t const piece) const {
    auto const time = m_piece_time == 0 ? unknown_piece_time : m_piece_time;
    return patience(int(m_readers.size()), time, place(m_number, number_of(piece)));
}

std::vector<lt::piece_block> Together::free_blocks(lt::piece_picker const& picker,
                                                   lt::piece_index_t const piece,
                                                   lt::peer_connection const& reader, Offers const& offers,
                                                   bool const in_order, int const most) {
    std::vector<lt::piece_block> free;
    auto const offered = offers.pieces().find(static_cast<int>(piece));
    bool const whole = reader.has_piece(piece);
    lt::piece_picker::downloading_piece state;
    picker.piece_info(piece, state);
    bool const begun = int(state.requested + state.writing + state.finished) > 0;
    if ((!whole && offered == offers.pieces().end()) || (begun && state.locked)) return free;
    auto const known =
        begun ? picker.blocks_for_piece(state) : lt::span<lt::piece_picker::block_info const>();
    // Padding is not requested.
    int const count = picker.blocks_in_piece(piece) - picker.pad_bytes_in_piece(piece) / block_size;
    std::vector<int> granules(std::size_t((count + per_granule - 1) / per_granule));
    std::iota(granules.begin(), granules.end(), 0);
    if (!in_order) std::shuffle(granules.begin(), granules.end(), m_random);
    for (int const granule : granules) {
        if (!whole && !offered->second[std::size_t(granule)]) continue;
        int const end = std::min((granule + 1) * per_granule, count);
        for (int block = granule * per_granule; block < end; ++block) {
            if (begun && known[block].state != lt::piece_picker::block_info::state_none) continue;
            free.emplace_back(piece, block);
            if (int(free.size()) == most) return free;
        }
    }
    return free;
}

bool Together::choose(lt::peer_connection& peer, Pace const& pace, Offers const& offers,
                      std::vector<lt::piece_block>& blocks) {
    auto const torrent = m_torrent.native_handle();
    auto const now = Clock::now();
    if (!torrent || !torrent->has_picker() || readers(now).empty()) return false;
    if (peer.has_peer_choked() || peer.on_parole()) return false;
    int room = pace.room(flow_of(peer), now);
    if (room <= 0) return true;
    bool const untested = received(peer) == 0 && std::any_of(m_all.begin(), m_all.end(), [](auto const& one) {
                              return received(*one.peer) > 0;
                          });
    auto& picker = torrent->picker();
    auto const sent_by_another = requested(peer, now);
    std::set<lt::piece_index_t> own;
    each_request(peer, [&own](lt::piece_index_t const piece) { own.insert(piece); });
    std::set<std::uint32_t> claimed;
    std::set<std::uint32_t> hinted;
    for (auto const& one : m_readers)
        for (auto const piece : one.claims->pieces(now)) {
            bool const begun = own.count(lt::piece_index_t(int(piece))) > 0;
            if (begun && place(*one.claims->number(), piece) > place(m_number, piece)) continue;
            (one.counts ? claimed : hinted).insert(piece);
        }
    std::vector<WantedPiece> pieces;
    std::vector<lt::piece_index_t> indexes;
    std::int64_t wait = 0;
    for (auto const& [piece, overdue] : wants(*torrent, now)) {
        bool const whole = peer.has_piece(piece);
        if (!whole && !offers.any(static_cast<int>(piece))) continue;
        lt::piece_picker::downloading_piece state;
        picker.piece_info(piece, state);
        bool const begun = int(state.requested + state.writing + state.finished) > 0;
        if (begun && int(state.requested + state.writing + state.finished) >= picker.blocks_in_piece(piece))
            continue;
        if (!whole && free_blocks(picker, piece, peer, offers, true, 1).empty()) continue;
        if (overdue >= 0 && pieces.empty() && spares_seeds(*torrent, now)) wait = patience_of(piece);
        auto const number = number_of(piece);
        pieces.push_back({number, own.count(piece) > 0, sent_by_another.count(piece) > 0,
                          claimed.count(number) > 0, hinted.count(number) > 0, holders(piece, now),
                          before(piece), overdue});
        indexes.push_back(piece);
    }
    // Nothing is left to choose: libtorrent requests the last blocks from further peers.
    if (pieces.empty() && own.empty()) return false;
    while (room > 0) {
        int const at = silmaril::choose({peer.is_seed(), untested, m_number, wait}, pieces);
        if (at < 0) break;
        auto const piece = indexes[std::size_t(at)];
        bool const in_order =
            pieces[std::size_t(at)].overdue >= 0 || (peer.is_seed() && m_readers.size() < many_readers);
        auto const free = free_blocks(picker, piece, peer, offers, in_order, room);
        room -= int(free.size());
        blocks.insert(blocks.end(), free.begin(), free.end());
        m_begun.emplace(piece, now);
        m_begin(piece, peer);
        pieces.erase(pieces.begin() + at);
        indexes.erase(indexes.begin() + at);
    }
    RequestQueue::open(lt::peer_connection_handle(peer.self()), std::uint16_t(pace.queue(flow_of(peer))));
    if (peer.is_seed() && !blocks.empty()) turn_soon();
    return true;
}

void Together::send_claims() {
    auto const torrent = m_torrent.native_handle();
    if (!torrent || !torrent->has_picker()) return;
    std::vector<std::uint32_t> pieces;
    // A piece whose last blocks have come is claimed until it is announced.
    auto const& picker = torrent->picker();
    for (auto const piece : m_claimed) {
        lt::piece_index_t const index{int(piece)};
        if (!picker.have_piece(index) && picker.is_piece_finished(index)) pieces.push_back(piece);
    }
    for (auto const& one : m_all) {
        if (!one.peer->is_seed()) continue;
        each_request(*one.peer, [&pieces](lt::piece_index_t const index) {
            auto const piece = number_of(index);
            if (pieces.size() < Claims::most &&
                std::find(pieces.begin(), pieces.end(), piece) == pieces.end())
                pieces.push_back(piece);
        });
    }
    std::sort(pieces.begin(), pieces.end());
    if (pieces == m_claimed || !m_messages.spend(Clock::now())) return;
    m_claimed = pieces;
    for (auto const& one : m_all)
        if (one.claims_id != 0 && !one.peer->is_seed()) greet(*one.peer, one.claims_id);
}

void Together::greet(lt::peer_connection& peer, std::uint8_t const claims_id) const {
    auto const torrent = m_torrent.native_handle();
    if (!torrent || torrent->is_seed() || peer.is_disconnecting()) return;
    send_extended(peer, claims_id, Claims::message(m_number, m_claimed));
}

bool Together::holds_back(lt::piece_index_t const piece) {
    auto const torrent = m_torrent.native_handle();
    if (!torrent || !torrent->has_picker() || readers(Clock::now()).empty()) return false;
    if (torrent->picker().is_restricted(piece)) return false;
    auto const& critical = torrent->time_critical_pieces();
    auto const found = std::find_if(critical.begin(), critical.end(),
                                    [piece](auto const& one) { return one.piece == piece; });
    return found != critical.end() &&
           milliseconds(lt::clock_type::now() - found->deadline) < patience_of(piece);
}

void Together::claimed(Claims& claims, lt::span<char const> const body) {
    claims.replace(body, m_piece_time == 0 ? unknown_piece_time : m_piece_time, Clock::now());
}

void Together::passed(lt::piece_index_t const piece) {
    turn_soon();
    auto const begun = m_begun.find(piece);
    if (begun == m_begun.end()) return;
    auto const took = milliseconds(Clock::now() - begun->second);
    m_piece_time = m_piece_time == 0 ? took : (3 * m_piece_time + took) / 4;
    m_begun.erase(begun);
}

void Together::set_order(Clock::time_point const now) {
    auto const torrent = m_torrent.native_handle();
    if (!torrent || !torrent->has_picker()) return;
    bool const alone = m_readers.empty() && !m_all.empty();
    m_seconds_alone = alone ? m_seconds_alone + 1 : 0;
    bool in_order = m_seconds_alone > alone_for;
    if (in_order) {
        auto const wanted = wants(*torrent, now);
        in_order = std::none_of(wanted.begin(), wanted.end(), [&](Want const& want) {
            return int(static_cast<std::uint8_t>(torrent->picker().piece_priority(want.piece))) >=
                   window_priority;
        });
    }
    torrent->set_sequential_download(in_order);
}

void Together::tick() {
    auto const now = Clock::now();
    for (auto one = m_begun.begin(); one != m_begun.end();)
        one = now - one->second > std::chrono::minutes(1) ? m_begun.erase(one) : std::next(one);
    m_readers_at = {};
    readers(now);
    set_order(now);
    if (m_readers.empty()) {
        // Blocks that were free when the last other reader left: libtorrent asks idle peers seldom.
        for (auto const& one : std::exchange(m_all, {}))
            if (requests_to(*one.peer) == 0) ask(*one.peer);
        return;
    }
    measure();
    bool const some_send = std::any_of(m_all.begin(), m_all.end(), [&](Fellow const& one) {
        return received(*one.peer) > 0 && keeps_up(one, now);
    });
    for (auto const& one : m_all) {
        // If no other peer sends, one that has sent is the best.
        if (!some_send && received(*one.peer) > 0) {
            one.pace->resume();
            continue;
        }
        if (!one.pace->is_silent() && !one.pace->is_slow(requests_to(*one.peer), m_piece_time)) continue;
        one.pace->pause(now);
        std::vector<lt::piece_block> blocks;
        for (auto const& request : one.peer->download_queue()) blocks.push_back(request.block);
        for (auto const& block : blocks) one.peer->forget_request(block);
    }
    turn_soon();
}

void Together::measure() {
    Second second{};
    for (auto const& one : m_all) {
        bool const is_seed = one.peer->is_seed();
        (is_seed ? second.from_seeds : second.from_readers) += one.pace->came();
        (is_seed ? second.seeds_asked : second.readers_asked) |= requests_to(*one.peer) > 0;
    }
    m_supply.tick(second);
}

void Together::close() {
    m_all.clear();
    m_readers.clear();
    m_readers_at = {};
}

void Together::ask(lt::peer_connection& peer) const {
    auto const torrent = m_torrent.native_handle();
    if (torrent && !peer.is_disconnecting() && lt::request_a_block(*torrent, peer))
        peer.send_block_requests();
}

void Together::turn_soon() {
    auto const torrent = m_torrent.native_handle();
    if (torrent && !torrent->is_seed()) m_soon->need(torrent->session().get_context());
}

void Together::turn() {
    auto const torrent = m_torrent.native_handle();
    if (!torrent || torrent->is_aborted() || !torrent->has_picker()) return;
    m_readers_at = {};
    if (readers(Clock::now()).empty()) return;
    // Readers first: a seed is asked for what they do not have.
    auto fellows = m_all;
    std::stable_partition(fellows.begin(), fellows.end(),
                          [](Fellow const& one) { return !one.peer->is_seed(); });
    for (auto const& one : fellows) ask(*one.peer);
    send_claims();
}

}  // namespace silmaril
