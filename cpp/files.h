// The files of torrents: the position of each byte of a piece, and a bounded number of open descriptors.
//
// A file is opened for writing only by a write, and created with its parent directories by the first write.
// So a model directory that is only seeded is never modified. Files are never truncated or preallocated; they
// are sparse until their pieces arrive. Rust opens the files, and follows no link.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <libtorrent/file_storage.hpp>
#include <libtorrent/span.hpp>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "outbox.h"
#include "shared_paths.h"

namespace silmaril {

// The result of an operation on a file. `error` is an errno value, 0 for success.
struct FileError {
    int error = 0;
    int file = -1;
    char const* operation = "";
    explicit operator bool() const { return error != 0; }
};

// An additional errno value: the file ends before the requested bytes.
constexpr int error_short_file = -1;

// Owns one descriptor.
class Descriptor {
public:
    Descriptor(int fd, bool writable) : m_fd(fd), m_writable(writable) {}
    ~Descriptor();
    Descriptor(Descriptor const&) = delete;
    Descriptor& operator=(Descriptor const&) = delete;
    int fd() const { return m_fd; }
    bool writable() const { return m_writable; }

private:
    int m_fd;
    bool m_writable;
};

// Open descriptors by (storage, file). Over the bound, the least recently used one is closed.
class DescriptorPool {
public:
    explicit DescriptorPool(std::size_t bound) : m_bound(bound) {}

    struct Opened {
        std::shared_ptr<Descriptor> descriptor;  // null on failure
        int error = 0;
        bool created = false;  // the file did not exist before
    };
    // The file if it is open, and with `write` only if it is open for writing.
    std::shared_ptr<Descriptor> find(std::uint64_t storage, int file, bool write);
    // Opens the file. With `write`, creates it and its parent directories.
    Opened open(std::uint64_t storage, int file, std::string const& path, bool write);
    // Removes one file from the pool. A caller that still uses the descriptor keeps it open.
    void close(std::uint64_t storage, int file);
    void close_all(std::uint64_t storage);
    // Closes the descriptors that were not used since the last call: an open file prevents the unmounting of
    // its disk.
    void close_idle();

private:
    // Closes all descriptors that no caller uses. For when the process has too many open files.
    void release_all();
    using Key = std::pair<std::uint64_t, int>;
    struct Slot {
        std::shared_ptr<Descriptor> descriptor;
        std::list<Key>::iterator position;
        std::uint64_t used_in = 0;  // the period in which it was used last
    };
    std::size_t const m_bound;
    std::uint64_t m_period = 0;  // how often idle descriptors were closed
    std::mutex m_mutex;
    std::list<Key> m_by_use;  // most recently used first
    std::map<Key, Slot> m_open;
};

// The files of one torrent. Safe to use from any thread.
class TorrentFiles {
public:
    // `given`: the files in order, without pad files. Throws if their number is wrong.
    // `on_lost` is called with a file's path if the file was removed or replaced since it was last opened.
    // `on_touched` is called with the bytes of a file of which only the change time is different.
    // `proved` returns whether the torrent has proved a piece that contains some of `length` bytes at
    // `offset`.
    using Proved = std::function<bool(std::int64_t offset, std::int64_t length)>;
    TorrentFiles(std::uint64_t storage, lt::file_storage const& layout, std::vector<GivenFile> given,
                 DescriptorPool& pool, SharedPaths& shared, Proved proved,
                 std::function<void(std::string const&)> on_lost,
                 std::function<void(std::int64_t from, std::int64_t to)> on_touched);
    ~TorrentFiles();
    TorrentFiles(TorrentFiles const&) = delete;
    TorrentFiles& operator=(TorrentFiles const&) = delete;

    // Saves hashes of 64 KiB each, starting at `offset` of the torrent. Ignores errors, because a missing
    // hash only costs time.
    void save_granules(std::int64_t offset, std::vector<lt::sha256_hash> const& hashes);
    // The saved hash of the 64 KiB at `offset` of the torrent; none if it was not saved.
    std::optional<lt::sha256_hash> granule(std::int64_t offset);

    // Reads `length` bytes at `offset` of the torrent. Pad files contain zeros.
    FileError read(std::int64_t offset, char* to, std::int64_t length);
    // Writes the bytes of all parts at `offset` of the torrent, one after another. Skips parts of which
    // another torrent has proved bytes in the same file, and what belongs to pad files.
    FileError write(std::int64_t offset, lt::span<lt::span<char const> const> parts);

    // Waits for the running writes of all torrents to the files at this range. Returns whether other torrents
    // use these files.
    bool wait_for_writes(std::int64_t offset, std::int64_t length);

    // Ensures that the written bytes at this range are in the files that the paths name now: if a file was
    // removed or replaced while it was open here, copies the bytes from the old file.
    FileError restore_lost(std::int64_t offset, std::int64_t length);

    std::string path(int file) const { return file < 0 ? std::string() : m_given[std::size_t(file)].path; }
    void close() { m_pool.close_all(m_storage); }

private:
    struct Extent {
        std::int64_t offset;
        std::int64_t size;
        int file;  // index into m_given; -1 for a pad file
    };
    // The file that a path named when it was last opened; inode 0 if it was never opened.
    struct Identity {
        bool expected = false;  // the file has bytes of this torrent
        std::uint64_t device = 0;
        std::uint64_t inode = 0;
    };
    // Whether a read-only file still has its given stamp. If only its change time is different, calls
    // m_on_touched.
    bool is_unchanged(int file, struct stat const& now);
    // The open file with the hashes of granules, and in `at` the position of the hash of the granule at
    // `offset`.
    std::shared_ptr<Descriptor> granules_at(std::int64_t offset, bool write, std::int64_t& at);
    template <typename Visit>
    FileError each(std::int64_t offset, std::int64_t length, Visit&& visit) const;
    std::shared_ptr<Descriptor> open(int file, bool write, FileError& error);

    std::uint64_t m_storage;
    std::vector<Extent> m_extents;
    std::vector<GivenFile> m_given;
    std::vector<std::shared_ptr<SharedFile>> m_shared;  // by file, as m_given
    DescriptorPool& m_pool;
    SharedPaths& m_shared_paths;
    std::function<void(std::string const&)> m_on_lost;
    std::function<void(std::int64_t, std::int64_t)> m_on_touched;
    std::mutex m_opening;          // held while a file is opened
    std::vector<Identity> m_seen;  // guarded by m_opening
    // Last known change times of read-only files; 0 if unknown.
    std::vector<std::atomic<std::int64_t>> m_changed;
};

}  // namespace silmaril
