// Files to which several torrents write, because equal contents of several models are stored once.
//
// A torrent must not replace bytes that another torrent has proved. So a write to such bytes is skipped. And
// if other torrents use the file, a torrent that has proved a piece reads it back after all writes that began
// before. Safe to use from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <vector>

namespace silmaril {

// A file, and the torrents that use it.
class SharedFile {
public:
    // Whether some of `count` bytes at `at` of the file are in a piece that the torrent has proved.
    using Proved = std::function<bool(std::int64_t at, std::int64_t count)>;

    // Runs `write` and returns its result, or nothing if another user than `storage` has proved some of the
    // bytes there.
    template <typename Write>
    std::optional<int> write(std::uint64_t storage, std::int64_t at, std::int64_t count, Write&& write) {
        std::shared_lock const lock(m_writing);
        if (proved_by_other(storage, at, count)) return std::nullopt;
        return write();
    }
    // Waits for the running writes. Returns whether there is another user than `storage`.
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
