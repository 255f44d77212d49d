// Orders for pieces of one torrent whose bytes are being deleted (Blocks::bar). They run when the last write
// of before the deletion has ended; blocks that arrive earlier would be dropped. Used on the network thread
// only.
#pragma once

#include <cstdint>
#include <functional>
#include <libtorrent/torrent.hpp>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "proof.h"

namespace silmaril {

class Held : public std::enable_shared_from_this<Held> {
public:
    using Order = std::function<void(lt::torrent&)>;
    // Pieces, and the bar of each.
    using Barred = std::vector<std::pair<int, std::uint64_t>>;

    explicit Held(std::shared_ptr<Proof> proof) : m_proof(std::move(proof)) {}

    // Runs the order now, or later if the piece is barred. An order that was given before the piece was
    // barred is ignored.
    void order(lt::torrent& torrent, int piece, Order order);
    // Ends all orders for pieces that were barred. From now on orders for them are held.
    void withdraw(lt::torrent& torrent, Barred const& pieces);
    // Ends the orders for a piece that is not wanted any more.
    void cancel(int piece);
    void close() { m_pieces.clear(); }

private:
    struct Piece {
        std::uint64_t bar = 0;
        bool clears = false;  // waits for the writes and the hash of before the deletion
        std::vector<Order> orders;
    };
    void clear(lt::torrent& torrent, int piece, Piece& held);
    // The writes of a barred piece have ended.
    void cleared(lt::torrent& torrent, int piece, std::uint64_t bar);

    std::shared_ptr<Proof> const m_proof;
    std::map<int, Piece> m_pieces;
};

}  // namespace silmaril
