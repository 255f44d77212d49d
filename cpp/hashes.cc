#include "hashes.h"

#include <algorithm>
#include <array>
#include <libtorrent/hash_picker.hpp>
#include <libtorrent/torrent.hpp>
#include <optional>

namespace silmaril {

namespace {

// In seconds. libtorrent repeats a request after 3 s at the earliest.
constexpr int first_pause = 4;
constexpr int longest_pause = 60;
constexpr int prompted_at_once = 4;

// Pieces whose hashes are requested together.
constexpr int pieces_at_once = 512;
constexpr std::uint32_t block_length = 16 * 1024;

// The lists of requests are private members. C++ permits the name of a private member in an explicit
// instantiation.
template <typename Name, auto Member>
struct Reach {
    friend auto& list(Name, lt::hash_picker& picker) { return picker.*Member; }
};

// For each file: its groups of 512 pieces, and when their hashes were requested.
struct OfPieces {};
auto& list(OfPieces, lt::hash_picker& picker);
template struct Reach<OfPieces, &lt::hash_picker::m_piece_hash_requested>;

// Calls `what` with each request whose hashes are missing, its file and its number in the file, until `what`
// returns true.
template <typename What>
void each_missing(lt::torrent_handle const& handle, What what) {
    auto const torrent = handle.native_handle();
    if (!torrent || !torrent->has_hash_picker()) return;
    auto& files = list(OfPieces{}, torrent->get_hash_picker());
    for (auto const file : files.range()) {
        int number = -1;
        for (auto& request : files[file]) {
            ++number;
            if (!request.have && what(*torrent, request, file, number)) return;
        }
    }
}

// One piece of this group that the peer has.
std::optional<lt::piece_index_t> piece_of(lt::peer_connection_handle const& peer, lt::torrent const& torrent,
                                          lt::file_index_t file, int number) {
    auto const& files = torrent.torrent_file().files();
    auto const all = files.file_piece_range(file);
    int const begin = int(*all.begin()) + number * pieces_at_once;
    int const end = std::min(begin + pieces_at_once, int(*all.end()));
    for (int piece = begin; piece < end; ++piece) {
        // The last piece of a file may be shorter than a block.
        if (files.piece_size2(lt::piece_index_t(piece)) < int(block_length)) continue;
        if (peer.has_piece(lt::piece_index_t(piece))) return lt::piece_index_t(piece);
    }
    return std::nullopt;
}

// BEP 3: request, for the first block of a piece.
void request_first_block(lt::peer_connection_handle peer, lt::piece_index_t piece) {
    std::array<char, 17> message{};
    auto const put = [&message](std::size_t at, std::uint32_t number) {
        for (int byte = 0; byte < 4; ++byte) message[at + byte] = char(number >> (24 - 8 * byte) & 0xff);
    };
    put(0, 13);
    message[4] = 6;
    put(5, std::uint32_t(int(piece)));
    put(13, block_length);
    peer.send_buffer(message.data(), int(message.size()));
}

}  // namespace

PieceHashes::PieceHashes(lt::torrent_handle handle, std::shared_ptr<Proof const> proof)
    : m_handle(std::move(handle)), m_proof(std::move(proof)), m_pause(first_pause) {}

void PieceHashes::tick() {
    // Fewer peers than needed came after the last prompted one, so the next round begins with the first peer.
    if (m_to_prompt > 0) m_first = 0;
    m_to_prompt = 0;
    int missing = 0;
    each_missing(m_handle, [&missing](auto const&, auto const&, auto, auto) {
        ++missing;
        return false;
    });
    auto const torrent = m_handle.native_handle();
    bool const fetches =
        torrent && torrent->state() == lt::torrent_status::downloading && !torrent->upload_mode();
    bool const wanted = fetches || (torrent && m_proof && m_proof->waits());
    if (missing < m_missing || !wanted) {
        m_idle = 0;
        m_pause = first_pause;
    }
    m_missing = missing;
    if (wanted && missing > 0 && ++m_idle >= m_pause) {
        m_idle = 0;
        m_pause = std::min(2 * m_pause, longest_pause);
        m_turn = 0;
        m_to_prompt = prompted_at_once;
    }
}

std::optional<lt::piece_index_t> PieceHashes::prompt(lt::peer_connection_handle const& peer) {
    int const turn = m_turn++;
    if (m_to_prompt == 0 || turn < m_first || peer.has_peer_choked()) return std::nullopt;
    std::optional<lt::piece_index_t> piece;
    each_missing(m_handle, [&](lt::torrent const& torrent, auto const&, lt::file_index_t file, int number) {
        piece = piece_of(peer, torrent, file, number);
        return piece.has_value();
    });
    if (!piece) return std::nullopt;
    request_first_block(peer, *piece);
    m_first = turn + 1;
    --m_to_prompt;
    return piece;
}

void PieceHashes::forget_requests() {
    bool any = false;
    each_missing(m_handle, [&any](auto const&, auto& request, auto, auto) {
        any = any || request.last_request != lt::min_time();
        request.last_request = lt::min_time();
        return false;
    });
    // The remaining peers may be silent, so they are prompted within a second.
    if (any) m_idle = m_pause;
}

}  // namespace silmaril
