#include "held.h"

#include <algorithm>
#include <libtorrent/piece_picker.hpp>

#include "withdraw.h"

namespace silmaril {

void Held::order(lt::torrent& torrent, int piece, Order order) {
    if (torrent.is_aborted() || !torrent.valid_metadata()) return;
    auto const bar = m_proof->blocks.bar_of(piece);
    if (bar == 0) return order(torrent);
    auto const found = m_pieces.find(piece);
    if (found == m_pieces.end() || found->second.bar != bar) return;
    found->second.orders.push_back(std::move(order));
    clear(torrent, piece, found->second);
}

void Held::withdraw(lt::torrent& torrent, Barred const& pieces) {
    std::vector<int> numbers;
    for (auto const& [piece, bar] : pieces) {
        numbers.push_back(piece);
        auto& held = m_pieces[piece];
        if (held.bar < bar) held = {bar, false, {}};
    }
    // libtorrent would count a piece as present when its hash arrives.
    for (int const piece : silmaril::withdraw(torrent, numbers)) clear(torrent, piece, m_pieces[piece]);
}

void Held::cancel(int piece) {
    auto const found = m_pieces.find(piece);
    if (found != m_pieces.end()) found->second.orders.clear();
}

void Held::clear(lt::torrent& torrent, int piece, Piece& held) {
    if (std::exchange(held.clears, true)) return;
    auto const bar = held.bar;
    // Without storage nothing was written.
    if (!torrent.has_storage()) return cleared(torrent, piece, bar);
    auto done = [self = weak_from_this(), weak = torrent.weak_from_this(), piece, bar](lt::piece_index_t) {
        auto const torrent = weak.lock();
        auto const held = self.lock();
        if (held && torrent && !torrent->is_aborted()) held->cleared(*torrent, piece, bar);
    };
    // Runs after all writes of the piece and after its hash; libtorrent has handled their results before.
    torrent.session().disk_thread().async_clear_piece(torrent.storage(), lt::piece_index_t(piece),
                                                      std::move(done));
}

void Held::cleared(lt::torrent& torrent, int piece, std::uint64_t bar) {
    lt::piece_index_t const index{piece};
    // While the piece is barred, no block of it becomes finished.
    if (m_proof->blocks.bar_of(piece) == bar) {
        if (torrent.have_piece(index)) silmaril::withdraw(torrent, {piece});
        if (torrent.has_picker()) {
            auto& picker = torrent.picker();
            std::vector<int> gone;
            for (int block = 0; block < picker.blocks_in_piece(index); ++block)
                if (picker.is_finished({index, block})) gone.push_back(block);
            if (!gone.empty()) picker.restore_piece(index, gone);
        }
    }
    auto const held = m_pieces.find(piece);
    if (held == m_pieces.end() || held->second.bar != bar) return;
    held->second.clears = false;
    // Without an order the piece stays barred, because a late block must not be written during the deletion.
    if (held->second.orders.empty()) return;
    auto const orders = std::move(held->second.orders);
    m_pieces.erase(held);
    if (!m_proof->blocks.admit(piece, bar)) return;
    for (auto const& order : orders) order(torrent);
}

}  // namespace silmaril
