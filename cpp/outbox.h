// What the parts that run on libtorrent's and the disk's threads have to say to the event loop, and the
// eventfd that wakes it. Also the registry of torrents: where their files go, and whether those are still
// open. Everything here may be called from any thread.
#pragma once

#include <sys/stat.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <libtorrent/socket.hpp>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace silmaril {

class Proof;

struct Note {
    enum class Kind {
        disk_error,
        piece_proved,
        piece_damaged,
        peer_connected,
        peer_disconnected,
        peer_speaks,
        peer_said,
        peer_left,
        silent_seeds,
        removed
    };
    Kind kind;
    std::uint64_t torrent = 0;
    // disk_error: the file, the operation and the error number. peer_disconnected: the reason in `text`.
    std::string path;
    std::string text;
    int error = 0;
    lt::tcp::endpoint endpoint;
    bool outgoing = false;
    // peer_speaks, peer_said and peer_left: which, and what it said.
    std::uint64_t peer = 0;
    std::vector<char> data;
    int seeds = 0;  // silent_seeds: how many
    int piece = 0;  // piece_proved, piece_damaged
    // peer_said: where the message is counted until it is taken out, and how much it counts.
    std::shared_ptr<std::atomic<std::size_t>> unread;
    std::size_t counts = 0;
};

// How a file looked when its bytes were verified.
struct FileStamp {
    std::uint64_t size;
    std::int64_t mtime_ns;
    std::uint64_t inode;
    FileStamp(std::uint64_t size, std::int64_t mtime_ns, std::uint64_t inode)
        : size(size), mtime_ns(mtime_ns), inode(inode) {}
    explicit FileStamp(struct stat const& found)
        : size(std::uint64_t(found.st_size)),
          mtime_ns(std::int64_t(found.st_mtim.tv_sec) * 1'000'000'000 + found.st_mtim.tv_nsec),
          inode(found.st_ino) {}
    bool operator!=(FileStamp const& other) const {
        return size != other.size || mtime_ns != other.mtime_ns || inode != other.inode;
    }
};

// A file of a torrent, as it was given to us.
struct GivenFile {
    std::string path;                     // absolute
    bool has_pieces = false;              // verified pieces are in it already
    std::optional<FileStamp> fixed = {};  // another file than this is not read
    std::int64_t changed_ns = 0;          // its change time, where it is fixed; 0 where that is not known
    std::string granules = {};            // a file with a hash of each 64 KiB; empty where there is none
};

class Outbox {
public:
    Outbox();
    ~Outbox();
    Outbox(Outbox const&) = delete;
    Outbox& operator=(Outbox const&) = delete;

    // Wakes the event loop.
    void wake() const noexcept;
    // Waits until woken, at most `milliseconds`.
    void wait(int milliseconds) const;

    void push(Note note);
    std::vector<Note> take();

    // A torrent's files, in canonical order, pad files left out.
    // `proof`: null for a torrent without metadata.
    void register_files(std::uint64_t torrent, std::vector<GivenFile> files, std::shared_ptr<Proof> proof);
    std::optional<std::vector<GivenFile>> files_of(std::uint64_t torrent) const;
    std::shared_ptr<Proof> proof_of(std::uint64_t torrent) const;

    // A torrent counts as removed when libtorrent has let go of it and its storage is closed, in either
    // order.
    void storage_opened(std::uint64_t torrent);
    void storage_closed(std::uint64_t torrent);
    void torrent_gone(std::uint64_t torrent);

private:
    struct Entry {
        std::vector<GivenFile> files;
        std::shared_ptr<Proof> proof;
        int open_storages = 0;
        bool gone = false;
    };
    void announce_if_removed(std::unordered_map<std::uint64_t, Entry>::iterator entry);

    int m_eventfd;
    mutable std::mutex m_mutex;
    std::vector<Note> m_notes;
    std::unordered_map<std::uint64_t, Entry> m_torrents;
};

// The save path given to libtorrent; it never touches it, only `torrent_of` reads it back.
std::string save_path_of(std::uint64_t torrent);
std::optional<std::uint64_t> torrent_of(std::string const& save_path);

}  // namespace silmaril
