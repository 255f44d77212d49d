// The disk back end of one torrent: blocks that are accepted but not yet written, the hashes of blocks, and
// the order of operations on each piece.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <libtorrent/error_code.hpp>
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
    std::shared_ptr<Proof> const proof;  // null while a torrent is created
    TorrentFiles files;

    // An accepted block, and the result of its write.
    struct Block {
        int start;
        Bytes bytes;
        bool given;  // it did not come from a peer, so it is never `wrong`
        std::function<void(lt::storage_error const&)> handler;
        Sender sender;
        // The result of the write.
        FileError error = {};
        bool refused = false;  // the bytes of the piece are being deleted: nothing was written
        bool wrong = false;    // the hash of the block is known, and another one: nothing was written
    };
    enum class Accepted { no, yes, flush };
    // Accepts a block. From now on `read` returns it. `no`, and does nothing, if the block is kept or its
    // piece is proved: a late block must not replace proved bytes. `flush`: `flush` must be called once more
    // for the piece, and then `finish`.
    Accepted accept(int piece, Block& block);
    struct Flushed {
        std::vector<Block> blocks;
        // Blocks of their granules that are kept now (blocks.h); the caller must call `confirm` for them.
        std::vector<int> kept;
        std::vector<int> suspects;  // granules with a wrong block
    };
    // Writes the next accepted blocks of a piece to their files, adjacent ones with one call, and hashes them
    // while they are in the CPU cache. Does not write to kept blocks and proved pieces.
    Flushed flush(int piece);
    struct Judged {
        std::vector<int> kept;                      // the caller must call `confirm` for them
        std::vector<std::pair<int, Sender>> wrong;  // blocks in the file whose hash is wrong
        std::vector<int> suspects;                  // granules with a wrong block
    };
    // Compares the blocks in the file with their proved hashes, or with those of their granules, as far as
    // both are known.
    Judged judge_blocks(int piece);
    // Ensures that the bytes of a kept block are in the file that its path names, and that no other torrent
    // has replaced them. Reports the blocks that are readable now (see Blocks::confirm).
    void confirm(int piece, int block, std::function<void(int first, int count)> const& report);
    // Must be called when a flush, or a task, has ended. The caller must run the returned task, if any, on
    // the pool.
    Task finish(int piece);

    // Runs `task` after all accepted blocks of the piece are written, and after all earlier tasks. Returns
    // the task if it may run immediately. `finish` must be called after each task.
    Task in_order(int piece, Task task);

    // Reads bytes of one piece, at most the length of two blocks, including accepted blocks.
    FileError read(int piece, int start, char* to, int length);

    // Whether bytes of a piece may be sent. Bytes in doubt are proved first, by the hash of their granule or
    // of the piece. False if the piece is wrong. True for bytes whose hashes are unknown.
    bool may_send(int piece, int start, int length);

    // Hashes the piece: each block of 16 KiB into `v2` (if not empty), the whole piece into `v1` (if not
    // null). Must be called in an `in_order` task.
    FileError hash(int piece, lt::span<lt::sha256_hash> v2, lt::sha1_hash* v1);
    FileError hash_block(int piece, int start, lt::sha256_hash& to);
    // Checks the piece by the hashes of its blocks (proof.h). If other torrents use its file, the file is
    // hashed again when its bytes can no longer be replaced, and `blocks` get the new hashes. Returns the
    // pieces that libtorrent has passed before and that are now proved.
    std::vector<int> judge(int piece, lt::span<lt::sha256_hash> blocks);

    // Whether the hashes of the piece's kept blocks are right. A block whose proved hash is not known any
    // more is proved by its granule. `granules`: their proved hashes, if they are saved.
    bool proves_kept(int piece, lt::span<Hash const> blocks,
                     std::optional<std::vector<Hash>> const& granules) const;
    // Whether a write of this piece has failed since the last `forget`.
    bool failed(int piece);
    // Resets the hashes and the failure of the piece.
    void forget(int piece);

    // `begin` and `end` count running jobs. A task of `when_idle` runs once, when there are none; the caller
    // must run a returned task.
    void begin();
    Task end();
    Task when_idle(Task task);

private:
    struct Writing {
        int running = 0;
        bool overlapped = false;  // the bytes in the file may be those of either write
    };
    struct Piece {
        std::deque<Block> accepted;  // no flush has begun to write them
        int running = 0;             // flushes and at most one task
        bool failed = false;
        std::vector<lt::sha256_hash> blocks;  // all zeros if unknown
        std::map<int, Writing> writing;       // by block
        std::map<int, Sender> senders;        // of the blocks in the file that have hashes
        std::deque<Task> waiting;
    };
    enum class Judgement { open, kept, wrong };
    // Keeps a block if all its writes have ended and its hash is the proved one. m_mutex must be locked.
    Judgement judge_block(Piece const& state, int piece, int block);
    // Proves the computed hashes of the blocks of a granule by the hash of the granule, as far as they are
    // known. False if some block is wrong. m_mutex must be locked.
    bool prove_granule(Piece const& state, int piece, int granule);
    // Forgets the computed hash of a block.
    void forget_hash(int piece, int block);
    struct Write {
        Block block;
        bool needed = true;
        lt::sha256_hash digest = {};
    };
    // The steps of `flush`: the next accepted blocks in the order of the file; their hashes; their writes;
    // and what is known after them.
    std::vector<Write> begin_writes(int piece);
    void hash_writes(int piece, std::vector<Write>& writes);
    void write_runs(int piece, std::vector<Write>& writes);
    Flushed end_writes(int piece, std::vector<Write> writes);
    // The write of an accepted block has ended. m_mutex must be locked.
    void end_accepted(int piece, Block const& block);
    // Saves the hashes of the granules of a proved piece.
    void save_granules(int piece, lt::span<lt::sha256_hash const> blocks);
    // Hashes the blocks of a piece from `start` to `end`; none if they cannot be read.
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
