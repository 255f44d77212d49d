// The proved node hashes of one torrent's file trees, and the pieces whose bytes match them.
//
// A node hash is proved if its path of nodes ends at the pieces root in the info dictionary. A piece is
// proved if the hashes of its blocks, computed by the disk back end, end at a proved node. Only a proved
// piece is reported as verified, independently of libtorrent's state. Safe to use from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <libtorrent/add_torrent_params.hpp>
#include <libtorrent/file_storage.hpp>
#include <libtorrent/torrent_info.hpp>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <vector>

#include "blocks.h"
#include "doubt.h"
#include "merkle.h"

namespace silmaril {

// The range of hashes in a HASH_REQUEST, HASHES or HASH_REJECT (BEP 52).
struct HashRange {
    Hash root;
    std::int64_t base = 0;  // height above the leaves
    std::int64_t index = 0;
    std::int64_t count = 0;
    std::int64_t proofs = 0;

    bool operator==(HashRange const& other) const {
        return root == other.root && base == other.base && index == other.index && count == other.count &&
               proofs == other.proofs;
    }
    // The number of proof hashes (siblings on the way to the root) that follow the hashes of the layer in an
    // answer. Only valid for a range that fits.
    std::int64_t uncles() const;
};

class Proof {
public:
    explicit Proof(lt::file_storage layout);
    int pieces() const { return m_layout.num_pieces(); }
    int piece_length() const { return m_layout.piece_length(); }
    int blocks_per_piece() const { return m_layout.blocks_per_piece(); }

    // Adds the hashes from metainfo or saved layers that are proved.
    void learn(lt::torrent_info const& info, lt::add_torrent_params const& params);
    // Records pieces that were proved earlier.
    void set_proved(lt::typed_bitfield<lt::piece_index_t> const& pieces);

    // Whether the range is inside the tree of a file: the root is known, the number of nodes is a power of
    // two and aligned, and the proof does not extend above the root.
    bool fits(HashRange const& range) const;
    // Checks the answer to a request and adds the hashes that it proves. False if the answer is wrong, or if
    // its proof ends at no proved node. Adds to `finished` the pieces that libtorrent has passed and that are
    // now proved.
    bool learn(HashRange const& range, lt::span<Hash const> hashes, std::vector<int>& finished);

    enum class Verdict { right, wrong, unknown };
    // Checks a piece by the hashes of its blocks. `unknown` while the hash of the piece is not proved; the
    // piece is checked again when it is.
    Verdict judge(int piece, lt::span<Hash const> blocks, std::vector<int>& finished);
    // Records that libtorrent has accepted the piece. True if it is proved; otherwise `learn` reports it
    // later. False if the piece is barred (blocks.h).
    bool pass(int piece);
    bool proved(int piece) const;
    // Whether the bytes of the piece must not be replaced: it is proved, or its verdict is `unknown`.
    bool keeps(int piece) const;
    // Whether some piece is present whose hash is not proved yet.
    bool waits() const;
    // Records that the piece is no longer proved.
    void forget(int piece);
    // Compares the hashes of the blocks with the proved hash of the piece. Changes nothing.
    Verdict compare(int piece, lt::span<Hash const> blocks) const;

    // Records that a peer requests bytes of a piece. Bytes that it has requested before are in doubt.
    void asked(lt::address const& peer, std::int64_t piece, std::int64_t start, std::int64_t length);

    // The hashes that a peer must send so that the block `first` of a piece, and as many of the blocks up to
    // `last` as are in the same small subtree, can be proved one by one: a subtree at most twice as long as
    // these blocks, with a proof that ends at a proved node. None if the piece has no more blocks than a
    // granule.
    std::optional<HashRange> range_of(int piece, int first, int last) const;
    // Most blocks of a subtree whose hashes are requested, and computed for a peer: 1 MiB.
    static constexpr int max_blocks = 64;
    // The hashes of all granules of a piece. None if the piece has at most one granule, or more than
    // `max_granules`.
    std::optional<HashRange> granules_of(int piece) const;
    static constexpr int max_granules = 256;

    // A subtree inside a piece: of blocks, or of all granules.
    struct Subtree {
        int piece;
        bool granules;  // the request is for the hashes of all granules of the piece
        int first;      // block in the piece
        int count;
        int width;                // leaves below the node of the piece
        Hash root;                // the proved hash of the piece
        int inside;               // proof hashes up to the node of the piece
        std::vector<Hash> above;  // the further proof hashes
    };
    // The subtree of a request; none if this node cannot answer it by reading a part of one piece that is
    // proved, or whose granules are offered (blocks.h).
    std::optional<Subtree> subtree(HashRange const& range) const;
    // Whether these are the hashes of all granules of the piece, padded to a power of two.
    bool are_granules(int piece, lt::span<Hash const> hashes) const;

    // Pieces that are proved and may have changed on the disk since.
    Doubt doubt;

    Blocks blocks;

    // Computes the answer to a request for hashes of blocks (leaves.h), and calls `answered` with it on the
    // network thread. False if the torrent has ended. Set by the disk back end; null without it.
    using Answered = std::function<void(std::optional<std::vector<Hash>> const& hashes)>;
    std::function<bool(HashRange const& range, Answered answered)> hashes_of;

    // The hashes of all granules of a piece came, without padding. Set by the disk back end; called on the
    // network thread, without a lock.
    std::function<void(int piece, std::vector<Hash> hashes)> granules_came;

    // Called when a failed piece may be requested again. Set and called on the network thread only.
    std::function<void()> cleared;

private:
    struct File {
        Shape shape;
        int first_piece;
        // Nodes down to the piece layer; none if not proved. The hash of padding may be all zeros.
        std::vector<std::optional<Hash>> nodes;
    };
    using Nodes = std::map<std::int64_t, Hash>;

    File const* find(Hash const& root) const;
    void learn_tree(File& file, Nodes const& given);
    bool climb(File& file, int piece);
    void learn_blocks(File const& file, HashRange const& range, lt::span<Hash const> hashes);
    // Adds to `with_granules` the pieces of which these are the hashes of all granules.
    bool learn(HashRange const& range, lt::span<Hash const> hashes, std::vector<int>& finished,
               std::vector<int>& with_granules);
    // The hashes of the granules of a piece, without padding.
    std::vector<Hash> granules_in(int piece, lt::span<Hash const> hashes) const;
    // The height of the lowest proved node above or at a piece.
    static int proved_height(File const& file, int piece);
    void judge_waiting(File const& file, std::vector<int>& finished);

    lt::file_storage const m_layout;
    mutable std::mutex m_mutex;          // guards all below
    std::map<int, File> m_files;         // by file index
    std::multimap<Hash, int> m_by_root;  // file indexes; equal files have the same root
    std::vector<bool> m_proved;          // by piece
    std::map<int, Hash> m_waiting;       // computed roots of pieces with the verdict `unknown`
    std::set<int> m_passed;              // accepted by libtorrent, not proved yet
};

}  // namespace silmaril
