// The orders of the engine for pieces: deadlines, blocks, priorities, withdrawal, and pieces from other
// sources.

#include <algorithm>
#include <libtorrent/piece_picker.hpp>
#include <libtorrent/torrent.hpp>
#include <libtorrent/torrent_info.hpp>
#include <stdexcept>

#include "compat.h"
#include "session.h"
#include "silmaril/src/ffi.rs.h"

namespace silmaril {

namespace {

// The priority of pieces for which a reader waits; libtorrent's own time-critical pieces have it too.
constexpr std::uint8_t top = 7;

bool is_restricted(lt::torrent& torrent, int piece) {
    return torrent.has_picker() && torrent.picker().is_restricted(lt::piece_index_t(piece));
}

}  // namespace

Engine::Torrent& Engine::with_piece(Torrent& torrent, std::uint32_t piece) const {
    if (!torrent.info) throw std::runtime_error("the torrent has no metadata yet");
    if (piece >= std::uint32_t(torrent.info->num_pieces()))
        throw std::runtime_error("there is no such piece");
    return torrent;
}

bool Engine::on_order(std::uint64_t torrent, Torrent const& state, std::uint32_t piece,
                      std::function<void(lt::torrent&)> order) const {
    return on_network(torrent, [parts = state.parts, piece, order = std::move(order)](lt::torrent& internal) {
        parts->order(internal, int(piece), order);
    });
}

bool Engine::request(std::uint64_t torrent, std::uint32_t piece, std::int32_t milliseconds) const {
    std::lock_guard const lock(m_mutex);
    auto* const state = find(torrent);
    if (!state) return false;
    with_piece(*state, piece).requested.insert(piece);
    return on_order(torrent, *state, piece,
                    [parts = state->parts, piece, milliseconds](lt::torrent& internal) {
                        bool const restricted = is_restricted(internal, int(piece));
                        parts->lift(internal, int(piece), true);
                        parts->set_deadline(internal, int(piece), milliseconds);
                        parts->expect(internal, int(piece));
                        if (restricted) parts->hurry(internal, int(piece));
                    });
}

bool Engine::request_blocks(std::uint64_t torrent, std::uint32_t piece, rust::Slice<RawBlocks const> blocks,
                            std::int32_t milliseconds) const {
    std::lock_guard const lock(m_mutex);
    auto* const state = find(torrent);
    if (!state) return false;
    with_piece(*state, piece).requested.insert(piece);
    std::vector<bool> wanted(std::size_t(state->proof->blocks.blocks_in(int(piece))), false);
    for (auto const& part : blocks)
        for (auto at = std::size_t(part.first);
             at < std::min(std::size_t(part.first) + part.count, wanted.size()); ++at)
            wanted[at] = true;
    return on_order(torrent, *state, piece,
                    [parts = state->parts, piece, wanted, milliseconds](lt::torrent& internal) {
                        parts->request(internal, int(piece), wanted, milliseconds);
                    });
}

bool Engine::set_priority(std::uint64_t torrent, rust::Slice<RawPriority const> pieces) const {
    std::lock_guard const lock(m_mutex);
    auto* const state = find(torrent);
    if (!state) return false;
    std::vector<lt::piece_index_t> taken_back;
    std::vector<int> whole;
    std::vector<std::pair<lt::piece_index_t, lt::download_priority_t>> wanted;
    wanted.reserve(pieces.size());
    for (auto const& one : pieces) {
        auto& requested = with_piece(*state, one.piece).requested;
        lt::piece_index_t const piece{int(one.piece)};
        if (one.priority > 0) whole.push_back(int(one.piece));
        // A piece for which a reader waits keeps the top priority, unless it is no longer wanted.
        if (one.priority > 0 && requested.count(one.piece)) continue;
        if (requested.erase(one.piece)) taken_back.push_back(piece);
        wanted.emplace_back(piece, lt::download_priority_t(std::min(one.priority, top)));
    }
    return on_network(torrent, [parts = state->parts, taken_back = std::move(taken_back),
                                whole = std::move(whole), wanted = std::move(wanted)](lt::torrent& internal) {
        std::vector<int> restricted;
        std::map<lt::piece_index_t, lt::download_priority_t> const priorities(wanted.begin(), wanted.end());
        auto now = wanted;
        for (int const piece : whole) {
            lt::piece_index_t const index{piece};
            if (!parts->is_barred(piece)) {
                if (is_restricted(internal, piece)) restricted.push_back(piece);
                parts->lift(internal, piece, true);
                continue;
            }
            auto const found = priorities.find(index);
            auto const priority = found == priorities.end() ? lt::dont_download : found->second;
            now.erase(std::remove(now.begin(), now.end(), std::pair(index, priority)), now.end());
            parts->order(internal, piece, [parts, piece, index, priority](lt::torrent& later) {
                parts->lift(later, piece, true);
                if (priority != lt::dont_download) later.set_piece_priority(index, priority);
            });
        }
        // Deadlines are reset first, because that sets the priority of the piece to 1.
        for (auto const piece : taken_back) internal.reset_piece_deadline(piece);
        if (!now.empty()) internal.prioritize_piece_list(now);
        for (int const piece : restricted) parts->hurry(internal, piece);
        for (auto const& [piece, priority] : wanted)
            if (priority == lt::dont_download) parts->lift(internal, static_cast<int>(piece), false);
    });
}

bool Engine::withdraw(std::uint64_t torrent, rust::Slice<std::uint32_t const> pieces) const {
    std::lock_guard const lock(m_mutex);
    auto* const state = find(torrent);
    if (!state) return false;
    std::vector<std::pair<int, std::uint64_t>> gone;
    gone.reserve(pieces.size());
    for (auto const piece : pieces) {
        with_piece(*state, piece).requested.erase(piece);
        // From now on no byte of the piece is sent, written or reported as verified.
        gone.emplace_back(int(piece), state->proof->blocks.bar(int(piece)));
        state->proof->forget(int(piece));
        Note note{};
        note.kind = Note::Kind::withdrawn;
        note.torrent = torrent;
        note.piece = int(piece);
        m_outbox->push(std::move(note));
    }
    return on_network(torrent, [parts = state->parts, gone = std::move(gone)](lt::torrent& internal) {
        parts->withdraw(internal, gone);
    });
}

bool Engine::give_piece(std::uint64_t torrent, std::uint32_t piece,
                        rust::Slice<std::uint8_t const> bytes) const {
    std::lock_guard const lock(m_mutex);
    auto* const state = find(torrent);
    if (!state) return false;
    auto const& info = *with_piece(*state, piece).info;
    lt::piece_index_t const index{int(piece)};
    if (int(bytes.size()) != info.orig_files().piece_size2(index))
        throw std::runtime_error("the piece has the wrong length");
    std::vector<char> data(bytes.begin(), bytes.end());
    // libtorrent counts the pad file that follows as part of the piece.
    data.resize(std::size_t(info.piece_size(index)), '\0');
    return on_order(torrent, *state, piece,
                    [parts = state->parts, index, data = std::move(data)](lt::torrent& internal) {
                        parts->lift(internal, static_cast<int>(index), true);
                        // Without the flag `overwrite_existing` blocks from peers are kept and only the
                        // missing ones are written. Overwriting would corrupt the state of a piece that
                        // another peer has completed.
                        internal.add_piece_async(index, data, {});
                    });
}

}  // namespace silmaril
