// Files that several torrents write to: equal contents of several models are kept once.
//
// A torrent must not replace bytes that another one has proved. So a write that touches such bytes is left
// out, and a torrent that has proved a piece in a file with other users reads it back after all writes that
// began before. Safe to use from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

namespace silmaril {

// A file, and the torrents that use it.
class SharedFile {
public:
    // Whether bytes of the file, from `at`, `count` of them, are in a piece that the torrent has proved.
    using Proved = std::function<bool(std::int64_t at, std::int64_t count)>;

    // Runs `write` unless another user than `storage` has proved bytes there. Returns what it returns; 0 if
    // it was left out.
    template <typename Write>
    int write(std::uint64_t storage, std::int64_t at, std::int64_t count, Write&& write) {
        std::shared_lock const lock(m_writing);
        return proved_by_other(storage, at, count) ? 0 : write();
    }
    // Waits for the writes that run now. Returns whether there is another user than `storage`.
    bool wait_for_writes(std::uint64_t storage);

private:
    friend class SharedPaths;
    bool proved_by_other(std::uint64_t storage, std::int64_t at, std::int64_t count) const;

    std::shared_mutex m_writing;
    mutable std::mutex m_mutex;  // guards m_users
    std::map<std::uint64_t, Proved> m_users;
};

class SharedPaths {
public:
    std::shared_ptr<SharedFile> join(std::string const& path, std::uint64_t storage,
                                     SharedFile::Proved proved);
    void leave(std::string const& path, std::uint64_t storage);

private:
    std::mutex m_mutex;
    std::map<std::string, std::shared_ptr<SharedFile>> m_files;
};

}  // namespace silmaril
