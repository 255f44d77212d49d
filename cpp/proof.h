// What is proved of one torrent: node hashes of its files' trees, and the pieces whose bytes match them.
//
// A node hash is proved when it leads to the pieces root in the info dictionary; a piece is proved when the
// hashes that the disk back end computed of its blocks lead to a proved node. Only a proved piece is reported
// as verified, whatever libtorrent believes. Safe to use from any thread.
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

#include "doubt.h"
#include "merkle.h"

namespace silmaril {

// Which hashes a HASH_REQUEST (BEP 52) names, and a HASHES or HASH_REJECT answers.
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
    // How many hashes of the proof follow those of the layer in an answer, the siblings on the way up. Only
    // for a range that fits.
    std::int64_t uncles() const;
};

class Proof {
public:
    explicit Proof(lt::file_storage layout);

    // Takes hashes from metainfo or saved layers, as far as they are proved.
    void learn(lt::torrent_info const& info, lt::add_torrent_params const& params);
    // These pieces were proved earlier.
    void set_proved(lt::typed_bitfield<lt::piece_index_t> const& pieces);

    // Whether the range lies inside the tree of a file: known root, a power of two of aligned nodes, and a
    // proof that does not pass the root.
    bool fits(HashRange const& range) const;
    // Checks the answer to a request and keeps what it proves. False when it is false, or when its proof
    // leads to no proved node. Adds to `finished` the pieces that libtorrent has passed and that are proved
    // now.
    bool learn(HashRange const& range, lt::span<Hash const> hashes, std::vector<int>& finished);

    enum class Verdict { right, wrong, unknown };
    // Judges a piece by the hashes of its blocks. `unknown` while the hash of the piece is not proved; the
    // piece is judged again when it is.
    Verdict judge(int piece, lt::span<Hash const> blocks, std::vector<int>& finished);
    // libtorrent has passed the piece. True when it is proved; otherwise `learn` reports it later.
    bool pass(int piece);
    bool proved(int piece) const;
    // Whether the bytes of the piece must not be replaced: it is proved, or judged unknown.
    bool keeps(int piece) const;
    // Whether some piece is here whose hash is not proved yet.
    bool waits() const;
    // The bytes of the piece count no more.
    void forget(int piece);
    // Whether the hashes of its blocks lead to the proved hash of the piece. Changes nothing.
    Verdict compare(int piece, lt::span<Hash const> blocks) const;

    // A peer requests bytes of a piece. What it has requested before is in doubt.
    void asked(lt::address const& peer, std::int64_t piece, std::int64_t start, std::int64_t length);

    // Pieces that are proved and may have changed on the disk since.
    Doubt doubt;

    // Called when a failed piece may be requested again. To be set and called on the network thread.
    std::function<void()> cleared;

private:
    struct File {
        Shape shape;
        int first_piece;
        // Down to the piece layer; none where not proved. The hash of padding may be all zeros.
        std::vector<std::optional<Hash>> nodes;
    };
    using Nodes = std::map<std::int64_t, Hash>;

    File const* find(Hash const& root) const;
    void learn_tree(File& file, Nodes const& given);
    bool climb(File& file, int piece);
    void judge_waiting(File const& file, std::vector<int>& finished);

    lt::file_storage const m_layout;
    mutable std::mutex m_mutex;          // guards all below
    std::map<int, File> m_files;         // by file index
    std::multimap<Hash, int> m_by_root;  // file indexes; equal files have the same root
    std::vector<bool> m_proved;          // by piece
    std::map<int, Hash> m_waiting;       // roots of pieces judged unknown
    std::set<int> m_passed;              // by libtorrent, not proved yet
};

}  // namespace silmaril
