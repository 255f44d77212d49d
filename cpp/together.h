// Coordinated reading: which blocks this node requests from which peer while other hosts of the swarm read
// too.
//
// Hosts that read a model at the same time want the same piece at the same moment, and only a full seed has
// it. If each of them requested it there, the seed would send the model once to each. So, while another
// reader is connected:
// - A piece that another reader has is requested from that reader. A seed is asked for a piece that no reader
//   has or claims, first for those pieces of which this reader is the first in the readers' order.
// - What a reader has of a piece is requested from it before it has the piece (offers.h).
// - The parts of a piece are requested in random order, from seeds only where readers are many, so that
//   readers have different parts to exchange. If a read waits, they are requested in their order.
// - A request is made late: a queue holds what arrives in a round trip and a few blocks. When a peer
//   announces a piece, all queues are filled again.
// - A piece that is overdue, because a read waits for it, is left to the other readers only for a random
//   time; where seeds are many, because hosts have finished, for no time.
// - A peer that sends nothing holds few requests, for a few seconds.
// - While all readers together send less than the seeds would, a seed is asked for what readers have, too.
//
// Without another reader libtorrent chooses. Used on the network thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <libtorrent/peer_connection.hpp>
#include <libtorrent/torrent.hpp>
#include <libtorrent/torrent_handle.hpp>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <vector>

#include "claims.h"
#include "guard.h"
#include "offers.h"
#include "pace.h"
#include "soon.h"
#include "supply.h"

namespace silmaril {

// A connection of the torrent.
struct Fellow {
    std::shared_ptr<lt::peer_connection> peer;
    std::shared_ptr<Pace> pace;
    std::shared_ptr<Claims> claims;
    std::uint8_t claims_id;        // its number of the extension; 0 if it does not support it
    std::shared_ptr<Group> group;  // of its address; null if no group limit applies
    bool counts;                   // whether its claims count: it has sent a correct piece lately
};

class Together {
public:
    // `fellows` returns all connections. `read` is called when another number of readers is connected.
    // `begun` is called when blocks of a piece are requested from a peer while other readers are connected.
    Together(lt::torrent_handle torrent, std::function<std::vector<Fellow>()> fellows,
             std::function<void(int readers)> read,
             std::function<void(lt::piece_index_t piece, lt::peer_connection const& peer)> begun)
        : m_torrent(std::move(torrent)),
          m_fellows(std::move(fellows)),
          m_read(std::move(read)),
          m_begin(std::move(begun)) {}
    // Chooses the next blocks to request from the peer, which has these offers. False if libtorrent chooses.
    bool choose(lt::peer_connection& peer, Pace const& pace, Offers const& offers,
                std::vector<lt::piece_block>& blocks);
    // Whether a piece is left to the other readers for now, although a read waits for it.
    bool holds_back(lt::piece_index_t piece);
    // Fills the queues of all peers soon: a peer has announced a piece.
    void turn_soon();
    // Sends the claims of this node to a peer that supports the extension.
    void greet(lt::peer_connection& peer, std::uint8_t claims_id) const;
    // Processes a message of claims of a reader.
    void claimed(Claims& claims, lt::span<char const> body);
    // Records that this node has a further piece.
    void passed(lt::piece_index_t piece);
    // Must be called once a second.
    void tick();
    // The torrent has ended. Its connections are released.
    void close();

private:
    struct Want {
        lt::piece_index_t piece;
        std::int64_t overdue;  // see WantedPiece
    };
    // The peers that read too.
    std::vector<Fellow> const& readers(Clock::time_point now);
    // In the order in which they are read.
    std::vector<Want> wants(lt::torrent& torrent, Clock::time_point now);
    // The pieces of which another peer sends blocks that keeps up. Those of readers count while readers
    // suffice.
    std::set<lt::piece_index_t> requested(lt::peer_connection const& peer, Clock::time_point now) const;
    bool keeps_up(Fellow const& one, Clock::time_point now) const;
    // What readers and seeds sent in the last second.
    void measure();
    // The readers that have a piece and can be asked for it; none while readers do not suffice.
    int holders(lt::piece_index_t piece, Clock::time_point now) const;
    int before(lt::piece_index_t piece) const;
    // Whether there are too few seeds to ask them immediately for a piece that a read waits for.
    bool spares_seeds(lt::torrent const& torrent, Clock::time_point now) const;
    std::int64_t patience_of(lt::piece_index_t piece) const;
    // At most `most` blocks of a piece that no peer was asked for and that a reader has or offers.
    // `in_order`: in the order in which they are read.
    std::vector<lt::piece_block> free_blocks(lt::piece_picker const& picker, lt::piece_index_t piece,
                                             lt::peer_connection const& reader, Offers const& offers,
                                             bool in_order, int most);
    // Without another reader, the pieces of a `get` are fetched in order, so that files can be hashed while
    // they arrive. Pieces in the windows of readers have an order of their own.
    void set_order(Clock::time_point now);
    // Requests blocks, if there are some to request from the peer.
    void ask(lt::peer_connection& peer) const;
    void turn();
    // Sends the pieces that this node fetches from seeds to the other readers, if they have changed.
    void send_claims();

    lt::torrent_handle const m_torrent;
    std::function<std::vector<Fellow>()> const m_fellows;
    std::function<void(int readers)> const m_read;
    std::function<void(lt::piece_index_t, lt::peer_connection const&)> const m_begin;
    std::minstd_rand m_random{std::random_device{}()};
    int m_reported = 0;  // the number with which `m_read` was last called
    // All connections, the readers among them, and the wanted pieces without a deadline. They are computed
    // again after a while.
    std::vector<Fellow> m_all;
    std::vector<Fellow> m_readers;
    Clock::time_point m_readers_at{};
    std::vector<lt::piece_index_t> m_wanted;
    Clock::time_point m_wanted_at{};
    std::map<lt::piece_index_t, Clock::time_point> m_begun;  // the first request of each piece
    std::int64_t m_piece_time = 0;                           // milliseconds, averaged; 0 before the first
    int m_seconds_alone = 0;                                 // with a peer, and without another reader
    Supply m_supply;
    std::uint64_t const m_number = std::uint64_t(std::random_device{}()) << 32 | std::random_device{}();
    std::shared_ptr<Soon> const m_soon = std::make_shared<Soon>([this] { turn(); });
    std::vector<std::uint32_t> m_claimed;
    Bucket m_messages{64, 32};
};

}  // namespace silmaril
