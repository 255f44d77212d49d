// One torrent's side of the disk back end: what was accepted and is not in its files yet, the hashes of
// blocks seen, and the order of operations on each piece.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <libtorrent/file_storage.hpp>
#include <libtorrent/sha1_hash.hpp>
#include <libtorrent/span.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "files.h"
#include "merkle.h"
#include "proof.h"

namespace silmaril {

using Bytes = std::shared_ptr<std::vector<char> const>;
using Task = std::function<void()>;

// Safe to use from any thread.
class Storage {
public:
    Storage(std::uint64_t torrent, lt::file_storage const& layout, std::vector<GivenFile> given,
            std::shared_ptr<Proof> proof, DescriptorPool& pool, SharedPaths& shared, std::uint64_t key,
            std::function<void(std::string const&)> on_lost)
        : torrent(torrent),
          layout(layout),
          proof(std::move(proof)),
          files(
              key, layout, std::move(given), pool, shared,
              [this](std::int64_t offset, std::int64_t length) { return keeps(offset, length); },
              std::move(on_lost),
              [this](std::int64_t from, std::int64_t to) {
                  if (this->proof) this->proof->doubt.raise(from, to);
              }) {}

    std::uint64_t const torrent;
    lt::file_storage const layout;
    std::shared_ptr<Proof> const proof;  // null while a torrent is being made
    TorrentFiles files;

    // A block is accepted; from now on `read` sees it.
    void accept(int piece, int start, Bytes bytes);
    // Writes an accepted block to its file and hashes it while it is hot.
    FileError flush(int piece, int start, Bytes const& bytes);
    // The block's write is over. Run the returned task, if any, on the pool.
    Task finish(int piece);

    // Runs `task` after everything that was accepted for the piece is written, and after the tasks given
    // before. Returns the task if it may run at once. Each task must be followed by `finish`.
    Task in_order(int piece, Task task);

    // Reads at most two blocks' worth from one piece, accepted bytes included.
    FileError read(int piece, int start, char* to, int length);

    // Whether bytes of a piece may be sent: those in doubt are proved first, by the hash of their granule or
    // of the piece. False when the piece is wrong. Bytes whose hashes are not known cannot be judged.
    bool may_send(int piece, int start, int length);

    // Hashes of the piece: of each 16 KiB block into `v2` (when not empty), of the whole piece into `v1`
    // (when not null). To be called as an `in_order` task.
    FileError hash(int piece, lt::span<lt::sha256_hash> v2, lt::sha1_hash* v1);
    FileError hash_block(int piece, int start, lt::sha256_hash& to);
    // Judges the piece by the hashes of its blocks (proof.h). Where other torrents use its file, the file is
    // hashed again once nothing can replace the bytes any more, and `blocks` become what is in it. Returns
    // the pieces that libtorrent has passed before and that are proved now.
    std::vector<int> judge(int piece, lt::span<lt::sha256_hash> blocks);

    // Whether a write of this piece failed since it was forgotten last.
    bool failed(int piece);
    // Drops what is known of the piece.
    void forget(int piece);

    // Counts jobs in flight; `when_idle` runs once, when there are none.
    void begin();
    Task end();
    Task when_idle(Task task);

private:
    struct Piece {
        int running = 0;  // accepted writes, plus at most one task
        bool failed = false;
        std::vector<lt::sha256_hash> blocks;  // all zero where unknown
        std::deque<Task> waiting;
    };
    // Saves the hashes of the granules of a piece that is proved.
    void save_granules(int piece, lt::span<lt::sha256_hash const> blocks);
    // Hashes the blocks of a piece from `start` to `end`. None when they cannot be read.
    std::optional<std::vector<lt::sha256_hash>> hashes(int piece, int start, int end);
    // Whether another torrent must not replace some of these bytes.
    bool keeps(std::int64_t offset, std::int64_t length) const;
    std::int64_t at(int piece, int start) const {
        return std::int64_t(piece) * layout.piece_length() + start;
    }

    std::mutex m_mutex;  // guards all below
    std::map<int, Piece> m_pieces;
    std::map<std::pair<int, int>, Bytes> m_accepted;  // by (piece, start of block)
    int m_jobs = 0;
    std::vector<Task> m_when_idle;
};

}  // namespace silmaril
