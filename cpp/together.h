// Coordinated reading: which blocks this node requests from which peer while other hosts of the swarm read
// too.
//
// Hosts that read a model at the same time want the same piece at the same moment, and only a full seed has
// it. If each of them requested it there, the seed would send the model once to each. So, while another
// reader is connected:
// - A piece that another reader has is requested from that reader. A seed is asked for a piece that no reader
//   has, each reader in its own random order.
// - A request is made late: a queue holds what arrives in a round trip and 16 blocks. When a peer announces a
//   piece, all queues are filled again.
// - A piece that is overdue, because a read waits for it, is left to the others only for a random time. Then
//   libtorrent requests it from the fastest peer.
//
// Without another reader libtorrent chooses. Used on the network thread only, except `choose` and `patience`.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <libtorrent/peer_connection.hpp>
#include <libtorrent/torrent.hpp>
#include <libtorrent/torrent_handle.hpp>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "claims.h"
#include "guard.h"

namespace silmaril {

// A wanted piece, when a peer that has it can be asked for it.
struct WantedPiece {
    int piece;
    int free;              // blocks that no peer was asked for
    bool requested;        // other blocks are on their way
    bool begun;            // this peer sends blocks of it
    bool claimed;          // another reader fetches it from a seed
    int holders;           // other readers that have it and can be asked
    std::int64_t overdue;  // for how many milliseconds a read has waited for it; negative if none waits
};

// What the choice depends on besides the pieces.
struct Choice {
    bool seed;              // the peer has every piece
    bool untested;          // it has sent nothing so far
    std::uint64_t salt;     // the random order of this reader
    std::int64_t patience;  // milliseconds; see `patience`
};

// The piece of which blocks are requested next, as an index of `pieces`, which are in the order in which they
// are read; negative for none.
int choose(Choice const& choice, std::vector<WantedPiece> const& pieces);

// For how many milliseconds an overdue piece is left to so many other readers, of which each takes
// `piece_time` milliseconds for a piece.
std::int64_t patience(int readers, std::int64_t piece_time, std::uint64_t random);

// What this node knows of the requests to one peer.
class Pace {
public:
    // The peer has announced a piece.
    void announced(Clock::time_point now) { m_announced = now; }
    // Must be called once a second.
    void tick(lt::peer_connection& peer);
    // Whether the peer reads, as far as this node can see.
    bool reads(lt::peer_connection const& peer, Clock::time_point now) const;
    // How many requests are in flight at most.
    int queue(lt::peer_connection const& peer) const;
    // For how many milliseconds the peer would send what it was asked for, and `bytes` more. 0 if unknown.
    std::int64_t time_for(lt::peer_connection const& peer, std::int64_t bytes) const;

private:
    Clock::time_point const m_came = Clock::now();
    Clock::time_point m_announced{};
    std::int64_t m_rate = 0;        // bytes per second while requests were in flight
    std::int64_t m_round_trip = 0;  // microseconds
};

// A connection of the torrent.
struct Fellow {
    std::shared_ptr<lt::peer_connection> peer;
    Pace const* pace;
    Claims* claims;
    std::uint8_t claims_id;  // its number of the extension; 0 if it does not support it
};

class Together : public std::enable_shared_from_this<Together> {
public:
    Together(lt::torrent_handle torrent, std::function<std::vector<Fellow>()> fellows)
        : m_torrent(std::move(torrent)), m_fellows(std::move(fellows)) {}
    // Chooses the next blocks to request from the peer, at most `most`. False if libtorrent chooses.
    bool choose(lt::peer_connection& peer, Pace const& pace, std::vector<lt::piece_block>& blocks, int most);
    // Whether a piece with this deadline is left to the other readers for now.
    bool holds_back(lt::piece_index_t piece, lt::time_point deadline);
    // Fills the queues of all peers soon: a peer has announced a piece.
    void turn_soon();
    // A reader claims pieces.
    void claimed(Claims& claims, lt::span<char const> body);
    // This node has got a piece.
    void passed(lt::piece_index_t piece);
    // Must be called once a second.
    void tick();

private:
    struct Want {
        lt::piece_index_t piece;
        std::int64_t overdue;
    };
    // The peers that read too.
    std::vector<Fellow> const& readers(Clock::time_point now);
    // In the order in which they are read.
    std::vector<Want> wants(lt::torrent& torrent, Clock::time_point now);
    bool is_claimed(lt::piece_index_t piece, Clock::time_point now) const;
    int holders(lt::torrent const& torrent, lt::piece_index_t piece) const;
    std::int64_t patience_of(lt::piece_index_t piece) const;
    void turn();
    // Tells the other readers which pieces this node fetches from seeds, if that has changed.
    void tell();

    lt::torrent_handle const m_torrent;
    std::function<std::vector<Fellow>()> const m_fellows;
    // The other readers, and the wanted pieces without a deadline. Both are computed again after a while.
    std::vector<Fellow> m_readers;
    Clock::time_point m_readers_at{};
    std::vector<lt::piece_index_t> m_wanted;
    Clock::time_point m_wanted_at{};
    std::map<lt::piece_index_t, Clock::time_point> m_begun;  // the first request of each piece
    std::int64_t m_piece_time = 0;                           // milliseconds, averaged
    std::uint64_t const m_salt = std::uint64_t(std::random_device{}()) << 32 | std::random_device{}();
    bool m_turn = false;
    std::vector<int> m_told;
    Bucket m_messages{64, 32};
};

}  // namespace silmaril
