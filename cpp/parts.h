// Pieces of one torrent of which only some blocks are wanted, because a reader waits for these blocks.
//
// The blocks are requested from the fastest peer, and from another one when they are late. Their hashes are
// requested at the same time, so that they can be proved without the rest of the piece. If no peer sends the
// hashes in time, that is reported, and the caller should request the whole piece. Used on the network thread
// only.
#pragma once

#include <deque>
#include <functional>
#include <libtorrent/peer_connection.hpp>
#include <libtorrent/torrent.hpp>
#include <libtorrent/torrent_handle.hpp>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "proof.h"

namespace silmaril {

class Parts : public std::enable_shared_from_this<Parts> {
public:
    using Peer = lt::peer_connection const*;  // only compared
    // A connection of the torrent, and how it is asked for the hashes of blocks.
    struct Source {
        std::shared_ptr<lt::peer_connection> connection;
        std::function<bool(HashRange const&)> ask;  // false if the peer has not answered too many requests
    };
    using Sources = std::function<std::vector<Source>()>;

    // `refused` is called with a piece if no peer supplies the hashes of its wanted blocks.
    Parts(std::shared_ptr<Proof> proof, std::function<void(int piece)> refused)
        : m_proof(std::move(proof)), m_refused(std::move(refused)) {}

    // The torrent runs, or has ended.
    void open(lt::torrent_handle handle, Sources sources);
    void close();

    // Runs an order for a piece: now, or, if its bytes are being deleted, when the last write of before the
    // deletion has ended. Blocks that come earlier would be dropped. Must be called for every order that
    // makes libtorrent request the piece.
    using Order = std::function<void(lt::torrent&)>;
    void order(lt::torrent& torrent, int piece, Order order);
    // Ends all orders for a barred piece. Without this call the piece remains barred: orders that run before
    // it were given before the piece was barred (Blocks::bar), and are ignored.
    void withdraw(lt::torrent& torrent, int piece, std::uint64_t bar);
    bool is_barred(int piece) const { return m_proof->blocks.is_barred(piece); }

    // Requests blocks of a piece, in addition to blocks requested before.
    void request(lt::torrent& torrent, int piece, std::vector<bool> const& blocks, int milliseconds);
    // The whole piece is wanted, or nothing of it any more, not even its held orders. Must be called before
    // libtorrent gets the order.
    void lift(lt::torrent& torrent, int piece, bool wanted);

    // The whole piece is requested with a deadline: blocks that a silent peer does not send are requested
    // from another one.
    void expect(lt::torrent& torrent, int piece);
    // Sends requests for a piece that is wanted as a whole, or more than before: libtorrent itself may wait
    // for a second.
    void hurry(lt::torrent& torrent, int piece);

    // A peer has answered a request for hashes, or rejected it.
    void answered(Peer peer, HashRange const& range, bool proved);
    // A peer can be asked that could not before.
    void peer_ready();
    // Must be called once a second.
    void tick();

private:
    struct Wanted {
        std::vector<bool> blocks;
        std::vector<bool> covered;                        // blocks of `pending` requests
        std::vector<std::pair<Peer, HashRange>> pending;  // requests for hashes
        std::set<Peer> refused;                           // peers that rejected a request, or did not answer
        int waited = 0;                                   // seconds since hashes were first requested
        bool whole = false;                               // the hashes of its blocks are not needed
    };
    std::shared_ptr<lt::torrent> torrent() const;
    // The sources that have a piece, the fastest first.
    std::vector<Source> sources_of(int piece) const;
    // Waits for the writes of a barred piece, and lets the picker forget its blocks.
    void clear(lt::torrent& torrent, int piece, std::uint64_t bar);
    // The bytes of a barred piece are deleted: runs its orders.
    void run_held(lt::torrent& torrent, int piece, std::uint64_t bar);
    // For the picker, kept blocks are finished.
    void give_back(lt::torrent& torrent, int piece);
    // Requests the hashes of the wanted blocks. False if no peer will send them.
    bool ask(int piece, Wanted& wanted);
    bool lacks_hashes(int piece, Wanted const& wanted) const;
    // Requests the free blocks, and blocks that were requested from silent peers only.
    void request_blocks(lt::torrent& torrent, int piece);
    bool is_silent(lt::peer_connection const& peer) const;
    void count_silence();
    // No peer supplies the hashes.
    void give_up(int piece);
    // A peer sent a wrong block.
    void wrong(int piece, int block);

    std::shared_ptr<Proof> const m_proof;
    std::function<void(int piece)> const m_refused;
    lt::torrent_handle m_handle;  // weak
    Sources m_sources;
    std::map<int, Wanted> m_wanted;
    struct Held {
        std::uint64_t bar = 0;  // see Blocks::bar
        bool clears = false;    // waits for the writes of before the deletion
        std::vector<Order> orders;
    };
    std::map<int, Held> m_held;  // orders for barred pieces
    struct Progress {
        std::int64_t received = 0;  // bytes of blocks
        int silent = 0;             // seconds without one, while blocks are requested
    };
    std::map<Peer, Progress> m_progress;
    std::deque<std::pair<HashRange, int>> m_asked;  // the last requests for hashes, and their pieces
};

}  // namespace silmaril
