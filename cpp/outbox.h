// Notes from libtorrent's threads and the disk threads to the event loop, and the eventfd that wakes it. Also
// the registry of torrents: the paths of their files, and whether their storage is still open. All functions
// may be called from any thread.
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
        blocks_proved,
        blocks_refused,
        withdrawn,
        peer_connected,
        peer_disconnected,
        peer_speaks,
        peer_message,
        peer_left,
        silent_seeds,
        readers,
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
    // peer_speaks, peer_message, peer_left: the number of the peer. peer_message: the message in `data`.
    std::uint64_t peer = 0;
    std::vector<char> data;
    int seeds = 0;  // silent_seeds: their number
    int piece = 0;  // piece_proved, piece_damaged, blocks_proved, blocks_refused, withdrawn
    int first = 0;  // blocks_proved: the first block in the piece, and how many
    int count = 0;  // readers: their number
    // peer_message: a counter that includes the message until the event loop receives it, and the message's
    // share.
    std::shared_ptr<std::atomic<std::size_t>> unread;
    std::size_t counts = 0;
};

// The stamp of a file when its bytes were verified.
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

// A file of a torrent, as the caller passed it.
struct GivenFile {
    std::string path;         // absolute
    bool has_pieces = false;  // it has verified pieces
    std::optional<FileStamp> fixed =
        {};                       // if set, the file is read-only, and only a file with this stamp is read
    std::int64_t changed_ns = 0;  // change time of a fixed file; 0 if unknown
    std::string granules = {};    // path of a file with a hash of each 64 KiB; empty if there is none
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
    // Removes and returns all notes.
    std::vector<Note> drain();

    // `files`: in canonical order, without pad files. `proof`: null for a torrent without metadata.
    void register_files(std::uint64_t torrent, std::vector<GivenFile> files, std::shared_ptr<Proof> proof);
    std::optional<std::vector<GivenFile>> files_of(std::uint64_t torrent) const;
    std::shared_ptr<Proof> proof_of(std::uint64_t torrent) const;

    // A torrent counts as removed when libtorrent has removed it and its storage is closed, in either order.
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

// The save path passed to libtorrent. It is not a real path: it only carries the number for `torrent_of`.
std::string save_path_of(std::uint64_t torrent);
std::optional<std::uint64_t> torrent_of(std::string const& save_path);

}  // namespace silmaril
