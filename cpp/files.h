// The files of torrents: where each byte of a piece goes, and the open descriptors, a bounded number of them.
//
// A file is opened for writing only to write to it, and created (with its parent directories) by its first
// write, so a model directory that is only seeded is never modified. Nothing is ever truncated or
// preallocated: files are sparse until their pieces come. Rust opens the files, and follows no link.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <libtorrent/file_storage.hpp>
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

// What went wrong with which file. `error` is an errno value, 0 for success.
struct FileError {
    int error = 0;
    int file = -1;
    char const* operation = "";
    explicit operator bool() const { return error != 0; }
};

// An errno value of our own: the file ends before the bytes asked for.
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

// Open descriptors by (storage, file), least recently used closed first.
class DescriptorPool {
public:
    explicit DescriptorPool(std::size_t bound) : m_bound(bound) {}

    struct Opened {
        std::shared_ptr<Descriptor> descriptor;  // null on failure
        int error = 0;
        bool created = false;  // it did not exist before
    };
    // The file if it is open, for writing where `write` asks for that.
    std::shared_ptr<Descriptor> find(std::uint64_t storage, int file, bool write);
    // Opens the file. With `write`, creates it and its parent directories.
    Opened open(std::uint64_t storage, int file, std::string const& path, bool write);
    // Forgets one file; a caller that still uses the descriptor keeps it open.
    void close(std::uint64_t storage, int file);
    void close_all(std::uint64_t storage);

private:
    // Closes all that no caller uses, when descriptors are short.
    void release_all();
    using Key = std::pair<std::uint64_t, int>;
    struct Slot {
        std::shared_ptr<Descriptor> descriptor;
        std::list<Key>::iterator position;
    };
    std::size_t const m_bound;
    std::mutex m_mutex;
    std::list<Key> m_by_use;  // front: used last
    std::map<Key, Slot> m_open;
};

// The files of one torrent. Safe to use from any thread.
class TorrentFiles {
public:
    // `given`: the files that are not pad files, in order. Throws when their number is wrong. `on_lost` is
    // called with a file's path when it turns out to have been removed or replaced since it was last seen,
    // `on_touched` with the bytes of a file of which only the change time is another one.
    // `proved`: whether the torrent has proved a piece that holds some of `length` bytes at `offset`.
    using Proved = std::function<bool(std::int64_t offset, std::int64_t length)>;
    TorrentFiles(std::uint64_t storage, lt::file_storage const& layout, std::vector<GivenFile> given,
                 DescriptorPool& pool, SharedPaths& shared, Proved proved,
                 std::function<void(std::string const&)> on_lost,
                 std::function<void(std::int64_t from, std::int64_t to)> on_touched);
    ~TorrentFiles();
    TorrentFiles(TorrentFiles const&) = delete;
    TorrentFiles& operator=(TorrentFiles const&) = delete;

    // Saves hashes of 64 KiB each, the first of which begin at `offset` of the torrent. It is no loss but
    // time if that fails.
    void save_granules(std::int64_t offset, std::vector<lt::sha256_hash> const& hashes);
    // The hash of the 64 KiB that begin at `offset` of the torrent, as it was saved; none where it was not.
    std::optional<lt::sha256_hash> granule(std::int64_t offset);

    // Reads or writes `length` bytes at `offset` of the torrent. Pad files read as zeros and swallow writes.
    FileError read(std::int64_t offset, char* to, std::int64_t length);
    FileError write(std::int64_t offset, char const* from, std::int64_t length);

    // Waits for the writes of all torrents to the files at that range. Returns whether other torrents use
    // them.
    bool wait_for_writes(std::int64_t offset, std::int64_t length);

    // Makes sure that the bytes written at that range stand in the files their paths name now: where a file
    // was removed or replaced while we had it open, copies them from the old one.
    FileError settle(std::int64_t offset, std::int64_t length);

    std::string path(int file) const { return file < 0 ? std::string() : m_given[std::size_t(file)].path; }
    void close() { m_pool.close_all(m_storage); }

private:
    struct Extent {
        std::int64_t offset;
        std::int64_t size;
        int file;  // index into m_given; -1 for a pad file
    };
    // Which file a path named when it was last opened (inode 0: it was not), and whether something is in it.
    struct Identity {
        bool expected = false;
        std::uint64_t device = 0;
        std::uint64_t inode = 0;
    };
    // Whether a file that is only read looks as it was given. Has it proved again if only its change time is
    // another one.
    bool is_unchanged(int file, struct stat const& now);
    // The open file with the hashes of the granules at `offset`, and where in it they are.
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
    // Change times of files that are only read, as last seen; 0 where not known.
    std::vector<std::atomic<std::int64_t>> m_changed;
};

}  // namespace silmaril
