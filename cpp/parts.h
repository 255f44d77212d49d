// Pieces of one torrent of which only some blocks are wanted, because a reader waits for these blocks.
//
// The blocks are requested from the fastest peer, and from another one when they are late. Their hashes are
// requested at the same time, so that they can be proved without the rest of the piece. If no peer sends the
// hashes in time, that is reported, and the caller should request the whole piece. If no connected peer has a
// whole piece that is wanted, the granules that peers offer (offers.h) are requested. Used on the network
// thread only.
#pragma once

#include <deque>
#include <functional>
#include <libtorrent/peer_connection.hpp>
#include <libtorrent/torrent.hpp>
#include <libtorrent/torrent_handle.hpp>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "hash_requests.h"
#include "held.h"
#include "late.h"
#include "proof.h"
#include "soon.h"
#include "source.h"
#include "urgent.h"

namespace silmaril {

class Parts : public std::enable_shared_from_this<Parts> {
public:
    using Peer = HashRequests::Peer;
    using Sources = std::function<std::vector<Source>()>;
    // Whether a piece that is wanted as a whole is left to other readers for now (together.h).
    using Left = std::function<bool(int piece)>;

    // `refused` is called with a piece if no peer supplies the hashes of its wanted blocks.
    Parts(std::shared_ptr<Proof> proof, std::function<void(int piece)> refused)
        : m_proof(std::move(proof)), m_refused(std::move(refused)), m_held(std::make_shared<Held>(m_proof)) {}

    // Called when the torrent begins to run, and when it has ended.
    void open(lt::torrent_handle handle, Sources sources, Left left);
    void close();

    // Runs an order for a piece (see Held). Must be called for every order that makes libtorrent request the
    // piece.
    void order(lt::torrent& torrent, int piece, Held::Order order) {
        m_held->order(torrent, piece, std::move(order));
    }
    // Ends all orders for pieces that were barred.
    void withdraw(lt::torrent& torrent, Held::Barred const& pieces);
    bool is_barred(int piece) const { return m_proof->blocks.is_barred(piece); }

    // Requests blocks of a piece, in addition to blocks requested before.
    void request(lt::torrent& torrent, int piece, std::vector<bool> const& blocks, int milliseconds);
    // Ends the restriction of a piece to some blocks: the whole piece is wanted, or no block of it any more,
    // and then its held orders end, too. Must be called before libtorrent gets the order.
    void lift(lt::torrent& torrent, int piece, bool wanted);

    // Sets the deadline of a piece that is requested as a whole.
    void set_deadline(lt::torrent& torrent, int piece, int milliseconds) {
        m_urgent.set_deadline(torrent, lt::piece_index_t(piece), milliseconds);
    }
    // Watches a piece that is requested as a whole with a deadline: blocks that a silent peer does not send
    // are requested from another one.
    void expect(lt::torrent& torrent, int piece);
    // Sends requests for a piece that is wanted as a whole, or more than before: libtorrent itself may wait
    // for a second.
    void hurry(lt::torrent& torrent, int piece);

    // Requests the hashes of the granules of a piece from the peer, so that each granule can be offered to
    // other readers as soon as it has arrived. Called when blocks of the piece are requested from the peer.
    void pass_on(lt::torrent& torrent, int piece, Peer peer);

    // A peer has answered a request for hashes, or rejected it.
    void answered(Peer peer, HashRange const& range, bool proved);
    // Called when a peer can be asked again, or offers granules that it did not offer before.
    void peer_ready();
    // A connection has ended.
    void peer_gone(Peer peer);
    // Must be called once a second.
    void tick();

private:
    struct Wanted {
        explicit Wanted(int piece) : hashes(piece) {}
        std::vector<bool> blocks;
        HashRequests hashes;
        int waited = 0;      // seconds without hashes that a peer could send
        int unproved = 0;    // seconds with a block in the file that nothing judges
        bool whole = false;  // the hashes of its blocks are only needed for offered granules
    };
    // Requests for the hashes of the granules of a piece that is passed on.
    struct Passed {
        Clock::time_point next{};  // not before this
        std::set<Peer> asked;
    };
    std::shared_ptr<lt::torrent> torrent() const;
    // The sources that have the piece or a part of it, the fastest first.
    std::vector<Source> sources_of(int piece) const;
    Wanted& wanted_of(int piece) { return m_wanted.try_emplace(piece, piece).first->second; }
    // For the picker, kept blocks are finished.
    void give_back(lt::torrent& torrent, int piece);
    // Requests the hashes of the wanted blocks. False if no peer will send them.
    bool ask(int piece, Wanted& wanted);
    // Repeats `ask` if it found a peer that could not be asked at that time.
    void ask_later();
    // Requests hashes and blocks of a wanted piece, as far as they can be requested now.
    void advance(lt::torrent& torrent, int piece, Wanted& wanted);
    void advance_all();
    bool lacks_hashes(int piece, Wanted const& wanted) const;
    // Requests the free blocks, and blocks that were requested from silent peers only.
    void request_blocks(lt::torrent& torrent, int piece);
    bool is_awaited(lt::torrent& torrent, lt::piece_block const& block) const;
    // Frees wanted blocks that are in the file, but were neither kept nor found wrong for some seconds: their
    // computed hash was lost.
    void free_unproved(lt::torrent& torrent, int piece, Wanted& wanted);
    // Ends a request for blocks whose hashes no peer supplies, and reports that.
    void give_up(int piece);
    // A peer sent a wrong block.
    void wrong(int piece, int block, Sender const& sender);
    // Some block of a granule is wrong: requests their hashes.
    void suspect(int piece, int granule);

    std::shared_ptr<Proof> const m_proof;
    std::function<void(int piece)> const m_refused;
    lt::torrent_handle m_handle;  // weak
    Sources m_sources;
    Left m_left;
    std::map<int, Wanted> m_wanted;
    std::map<int, Passed> m_passed;
    std::shared_ptr<Held> const m_held;
    Late m_late;
    Urgent m_urgent;
    std::shared_ptr<Soon> const m_soon = std::make_shared<Soon>([this] { advance_all(); });
    bool m_later = false;                           // some peer could not be asked
    std::deque<std::pair<HashRange, int>> m_asked;  // the last requests for hashes, and their pieces
};

}  // namespace silmaril
