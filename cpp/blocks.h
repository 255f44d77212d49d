// The blocks of one torrent below its pieces: proved hashes of blocks, and the blocks that are kept although
// their piece is not complete.
//
// A block is *kept* when its bytes are in the file and their hash is proved. No write replaces a kept block,
// whatever happens to its piece. A *barred* piece has no kept blocks and accepts no writes, because its bytes
// are being deleted. A granule is *offered* to peers (offers.h) when its blocks are kept and confirmed, and
// the hashes of all granules of its piece are saved. Safe to use from any thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <libtorrent/disk_observer.hpp>
#include <libtorrent/file_storage.hpp>
#include <libtorrent/span.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <vector>

#include "merkle.h"

namespace silmaril {

// The connection that sent a block; none for a block that no peer sent.
using Sender = std::weak_ptr<lt::disk_observer>;

class Blocks {
public:
    explicit Blocks(lt::file_storage const& layout);

    // Stores proved hashes of consecutive blocks of a piece. Hashes of the pieces that were learned first are
    // dropped when there are too many.
    void learn(int piece, int first, lt::span<Hash const> hashes);
    // The proved hash of a block; none if it is unknown.
    std::optional<Hash> hash(int piece, int block) const;
    // Whether any hash of the piece is known.
    bool knows(int piece) const;

    // Permits that blocks of the piece are kept: they are wanted one by one, or are passed on before the
    // piece is complete. `whole`: the rest of the piece is wanted, too.
    void watch(int piece, bool whole = false);
    // Whether the rest of a watched piece is wanted.
    bool is_whole(int piece) const;
    // Records that the rest of the piece is not wanted any more.
    void end_whole(int piece);
    // Keeps a block. Returns false, and does nothing, if the piece is barred or not watched.
    bool keep(int piece, int block);
    // Ends the keeping of a block whose bytes are wrong.
    void drop(int piece, int block);
    // Records that the bytes of a kept block are in the file that its path names. If that is true for all
    // blocks of its granule, calls `report` with the first of them and their number, once.
    void confirm(int piece, int block, std::function<void(int first, int count)> const& report);
    // Calls `report` unless the piece is barred. After `bar` nothing is reported for a piece.
    void unless_barred(int piece, std::function<void()> const& report) const;
    // Keeps and confirms blocks that were kept in an earlier run.
    void restore(int piece, int first, int count);
    bool keeps(int piece, int block) const;
    bool keeps_any(int piece) const;
    // Whether every block of the piece is kept and confirmed.
    bool keeps_all(int piece) const;
    // The kept and confirmed blocks of a piece; empty if there are none.
    std::vector<bool> kept(int piece) const;
    // Ends the keeping of all blocks of a piece, because they are damaged.
    void forget(int piece);
    // Ends the offers of a piece that is proved: peers know that this node has it.
    void complete(int piece);
    // All pieces with kept blocks.
    std::vector<int> pieces() const;

    // Records that the proved hashes of the granules of a piece are saved (TorrentFiles::save_granules).
    void granules_saved(int piece, std::vector<Hash> const& granules);
    // The proved hash of a granule of a piece that is wanted as a whole; none if it is unknown.
    std::optional<Hash> granule(int piece, int granule) const;
    bool has_granules(int piece) const;
    // The pieces with offered granules.
    std::set<int> offered_pieces() const;
    // The offered granules of the piece; empty if there are none.
    std::vector<bool> offered(int piece) const;
    // Whether all these bytes of a piece are in offered granules.
    bool offers(std::int64_t piece, std::int64_t start, std::int64_t length) const;
    // The pieces whose offered granules may have changed since the last call.
    std::set<int> changed_offers();

    // Bars a piece whose bytes are about to be deleted. Returns a number that names this call.
    std::uint64_t bar(int piece);
    bool is_barred(int piece) const;
    // The name of the last call of `bar`; 0 if the piece is not barred.
    std::uint64_t bar_of(int piece) const;
    // Permits writes to a piece again: all writes that began before the deletion have ended. False, and does
    // nothing, if the piece was barred again since.
    bool admit(int piece, std::uint64_t bar);

    int blocks_in(int piece) const;

    // Called on the network thread only: a peer sent a wrong block; all blocks of a piece are kept.
    std::function<void(int piece, int block, Sender const& sender)> wrong;
    std::function<void(int piece)> whole;
    // The same: some block of a granule is wrong, and their hashes show which one; more granules are offered.
    std::function<void(int piece, int granule)> suspect;
    std::function<void()> offered_more;
    // Set by the disk back end, called on the network thread only: hashes of the piece came.
    std::function<void(int piece)> came;

private:
    struct Kept {
        std::vector<bool> blocks;
        std::vector<bool> confirmed;
        bool granules_saved = false;
        bool whole = false;
        std::vector<Hash> granules;  // while `whole`
    };
    // Ends the keeping of all blocks of a piece. m_mutex must be locked.
    void erase(int piece);
    static bool is_offered(Kept const& kept, int granule);
    static std::vector<bool> offered_of(Kept const& kept);
    lt::file_storage const m_layout;
    mutable std::mutex m_mutex;  // guards all below
    std::map<int, std::map<int, Hash>> m_hashes;
    std::deque<int> m_learned;   // the pieces in m_hashes, the oldest first
    std::size_t m_count = 0;     // hashes in m_hashes
    std::map<int, Kept> m_kept;  // by watched piece
    std::set<int> m_changed_offers;
    std::map<int, std::uint64_t> m_barred;  // names of bars, by piece
    std::uint64_t m_bars = 0;               // calls of `bar`
};

}  // namespace silmaril
