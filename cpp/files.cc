#include "files.h"

#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "silmaril/src/ffi.rs.h"

namespace silmaril {

namespace {

int pread_fully(int fd, char* to, std::int64_t length, std::int64_t at) {
    while (length > 0) {
        auto const got = ::pread(fd, to, std::size_t(length), at);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return errno;
        if (got == 0) return error_short_file;
        to += got;
        at += got;
        length -= got;
    }
    return 0;
}

// The bytes from `from` to `to` of the parts, which are counted from the first byte of the first part.
std::vector<iovec> range_of(lt::span<lt::span<char const> const> parts, std::int64_t from, std::int64_t to) {
    std::vector<iovec> range;
    std::int64_t start = 0;
    for (auto const& part : parts) {
        auto const first = std::max(from - start, std::int64_t(0));
        auto const end = std::min(to - start, std::int64_t(part.size()));
        if (first < end) range.push_back({const_cast<char*>(part.data()) + first, std::size_t(end - first)});
        start += part.size();
    }
    return range;
}

int pwritev_fully(int fd, std::vector<iovec> parts, std::int64_t at) {
    for (auto next = parts.begin(); next != parts.end();) {
        auto put = ::pwritev(fd, &*next, int(parts.end() - next), at);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return errno;
        if (put == 0) return ENOSPC;
        at += put;
        for (; next != parts.end() && std::size_t(put) >= next->iov_len; ++next) put -= next->iov_len;
        if (next == parts.end()) break;
        next->iov_base = static_cast<char*>(next->iov_base) + put;
        next->iov_len -= std::size_t(put);
    }
    return 0;
}

int pwrite_fully(int fd, char const* from, std::int64_t length, std::int64_t at) {
    lt::span<char const> const part(from, std::ptrdiff_t(length));
    return pwritev_fully(fd, range_of(lt::span<lt::span<char const> const>(&part, 1), 0, length), at);
}

}  // namespace

Descriptor::~Descriptor() { ::close(m_fd); }

std::shared_ptr<Descriptor> DescriptorPool::find(std::uint64_t storage, int file, bool write) {
    std::lock_guard const lock(m_mutex);
    auto const found = m_open.find({storage, file});
    if (found == m_open.end() || (write && !found->second.descriptor->writable())) return nullptr;
    m_by_use.splice(m_by_use.begin(), m_by_use, found->second.position);
    found->second.used_in = m_period;
    return found->second.descriptor;
}

DescriptorPool::Opened DescriptorPool::open(std::uint64_t storage, int file, std::string const& path,
                                            bool write) {
    Opened opened;
    Key const key{storage, file};
    // Opening may be slow (on a network file system), so the lock is not held.
    auto const open_now = [&] {
        return open_file({reinterpret_cast<std::uint8_t const*>(path.data()), path.size()}, write);
    };
    auto answer = open_now();
    if (answer.error == EMFILE || answer.error == ENFILE || answer.error == ENOMEM) {
        release_all();
        answer = open_now();
    }
    opened.error = answer.error;
    opened.created = answer.created;
    if (answer.error) return opened;
    auto descriptor = std::make_shared<Descriptor>(answer.descriptor, write);
    opened.descriptor = descriptor;

    std::vector<std::shared_ptr<Descriptor>> closing;  // closed after the lock is released
    std::lock_guard const lock(m_mutex);
    auto const [slot, fresh] = m_open.try_emplace(key);
    if (fresh) {
        m_by_use.push_front(key);
        slot->second.position = m_by_use.begin();
    } else {
        m_by_use.splice(m_by_use.begin(), m_by_use, slot->second.position);
        closing.push_back(std::move(slot->second.descriptor));
    }
    slot->second.descriptor = descriptor;
    slot->second.used_in = m_period;
    while (m_open.size() > m_bound) {
        auto const oldest = m_open.find(m_by_use.back());
        closing.push_back(std::move(oldest->second.descriptor));
        m_open.erase(oldest);
        m_by_use.pop_back();
    }
    return opened;
}

void DescriptorPool::close(std::uint64_t storage, int file) {
    std::shared_ptr<Descriptor> closing;
    std::lock_guard const lock(m_mutex);
    auto const found = m_open.find({storage, file});
    if (found == m_open.end()) return;
    closing = std::move(found->second.descriptor);
    m_by_use.erase(found->second.position);
    m_open.erase(found);
}

void DescriptorPool::release_all() {
    std::map<Key, Slot> closing;  // closed after the lock is released
    std::lock_guard const lock(m_mutex);
    closing.swap(m_open);
    m_by_use.clear();
}

void DescriptorPool::close_idle() {
    std::vector<std::shared_ptr<Descriptor>> closing;  // closed after the lock is released
    std::lock_guard const lock(m_mutex);
    ++m_period;
    while (!m_by_use.empty()) {
        auto const oldest = m_open.find(m_by_use.back());
        if (oldest->second.used_in + 1 >= m_period) return;
        closing.push_back(std::move(oldest->second.descriptor));
        m_open.erase(oldest);
        m_by_use.pop_back();
    }
}

void DescriptorPool::close_all(std::uint64_t storage) {
    std::vector<std::shared_ptr<Descriptor>> closing;
    std::lock_guard const lock(m_mutex);
    auto entry = m_open.lower_bound({storage, std::numeric_limits<int>::min()});
    while (entry != m_open.end() && entry->first.first == storage) {
        closing.push_back(std::move(entry->second.descriptor));
        m_by_use.erase(entry->second.position);
        entry = m_open.erase(entry);
    }
}

TorrentFiles::TorrentFiles(std::uint64_t storage, lt::file_storage const& layout,
                           std::vector<GivenFile> given, DescriptorPool& pool, SharedPaths& shared,
                           Proved proved, std::function<void(std::string const&)> on_lost,
                           std::function<void(std::int64_t, std::int64_t)> on_touched)
    : m_storage(storage),
      m_pool(pool),
      m_shared_paths(shared),
      m_on_lost(std::move(on_lost)),
      m_on_touched(std::move(on_touched)),
      m_changed(given.size()) {
    for (std::size_t i = 0; i < given.size(); ++i) m_changed[i] = given[i].changed_ns;
    for (auto& one : given) {
        m_seen.push_back({one.has_pieces});
        m_given.push_back(std::move(one));
    }
    int file = 0;
    for (auto const index : layout.file_range()) {
        bool const pad = layout.pad_file_at(index);
        if (layout.file_size(index) > 0)
            m_extents.push_back({layout.file_offset(index), layout.file_size(index), pad ? -1 : file});
        if (!pad) ++file;
    }
    // A torrent that only fetches metadata has no paths. Its storage refuses reads and writes.
    if (!m_given.empty() && std::size_t(file) != m_given.size())
        throw std::runtime_error("the number of paths is not the number of files");
    std::vector<std::int64_t> starts(m_given.size(), 0);
    for (auto const& extent : m_extents)
        if (extent.file >= 0 && !m_given.empty()) starts[std::size_t(extent.file)] = extent.offset;
    for (std::size_t i = 0; i < m_given.size(); ++i)
        m_shared.push_back(shared.join(m_given[i].path, m_storage,
                                       [proved, start = starts[i]](std::int64_t at, std::int64_t count) {
                                           return proved(start + at, count);
                                       }));
}

TorrentFiles::~TorrentFiles() {
    for (auto const& one : m_given) m_shared_paths.leave(one.path, m_storage);
}

bool TorrentFiles::wait_for_writes(std::int64_t offset, std::int64_t length) {
    bool shared = false;
    each(offset, length, [&](int file, std::int64_t, std::int64_t, std::int64_t) -> FileError {
        if (file >= 0 && m_shared[std::size_t(file)]->wait_for_writes(m_storage)) shared = true;
        return {};
    });
    return shared;
}

template <typename Visit>
FileError TorrentFiles::each(std::int64_t offset, std::int64_t length, Visit&& visit) const {
    if (m_given.empty()) return {ENOENT, -1, "open"};
    auto extent = std::upper_bound(m_extents.begin(), m_extents.end(), offset,
                                   [](std::int64_t at, Extent const& e) { return at < e.offset; });
    if (extent != m_extents.begin()) --extent;
    std::int64_t done = 0;
    for (; done < length && extent != m_extents.end(); ++extent) {
        auto const within = offset + done - extent->offset;
        auto const count = std::min(extent->size - within, length - done);
        if (count <= 0) continue;
        if (auto const error = visit(extent->file, within, done, count)) return error;
        done += count;
    }
    if (done < length) return {EINVAL, -1, "map"};
    return {};
}

std::shared_ptr<Descriptor> TorrentFiles::open(int file, bool write, FileError& error) {
    auto const& fixed = m_given[std::size_t(file)].fixed;
    if (fixed && write) {
        error = {EROFS, file, "open"};
        return nullptr;
    }
    if (auto held = m_pool.find(m_storage, file, write)) {
        struct stat now {};
        // An open file may have been changed in place.
        if (!fixed || (::fstat(held->fd(), &now) == 0 && is_unchanged(file, now))) return held;
        m_pool.close(m_storage, file);
        error = {ESTALE, file, "read"};
        return nullptr;
    }
    // One thread at a time. Otherwise, if two threads find no file, the second could mistake the file that
    // the first has just created for a replacement of a lost file.
    std::unique_lock opening(m_opening);
    if (auto held = m_pool.find(m_storage, file, write)) return held;
    auto const opened = m_pool.open(m_storage, file, path(file), write);
    if (!opened.descriptor) {
        error = {opened.error, file, "open"};
        return nullptr;
    }
    struct stat now {};
    if (::fstat(opened.descriptor->fd(), &now) != 0) {
        error = {errno, file, "stat"};
        return nullptr;
    }
    if (fixed && !is_unchanged(file, now)) {
        m_pool.close(m_storage, file);
        error = {ESTALE, file, "open"};
        return nullptr;
    }
    auto& seen = m_seen[std::size_t(file)];
    // `created` is checked too, because a new file may get the inode number of the removed one.
    bool const lost =
        seen.expected &&
        (opened.created || (seen.inode != 0 && (seen.device != now.st_dev || seen.inode != now.st_ino)));
    seen = {seen.expected || write, now.st_dev, now.st_ino};
    opening.unlock();
    if (lost) m_on_lost(path(file));
    return opened.descriptor;
}

bool TorrentFiles::is_unchanged(int file, struct stat const& now) {
    if (*m_given[std::size_t(file)].fixed != FileStamp(now)) return false;
    auto const changed_ns = std::int64_t(now.st_ctim.tv_sec) * 1'000'000'000 + now.st_ctim.tv_nsec;
    auto const before = m_changed[std::size_t(file)].exchange(changed_ns);
    if (before != 0 && before != changed_ns) {
        for (auto const& extent : m_extents)
            if (extent.file == file) m_on_touched(extent.offset, extent.offset + extent.size);
    }
    return true;
}

std::shared_ptr<Descriptor> TorrentFiles::granules_at(std::int64_t offset, bool write, std::int64_t& at) {
    auto extent = std::upper_bound(m_extents.begin(), m_extents.end(), offset,
                                   [](std::int64_t at, Extent const& e) { return at < e.offset; });
    if (extent == m_extents.begin()) return nullptr;
    --extent;
    if (extent->file < 0 || offset >= extent->offset + extent->size || m_given.empty()) return nullptr;
    auto const& path = m_given[std::size_t(extent->file)].granules;
    if (path.empty()) return nullptr;
    // Descriptors of granule files have the keys -2 and below, distinct from those of the torrent's files.
    int const key = -2 - extent->file;
    at = (offset - extent->offset) / (64 * 1024) * std::int64_t(lt::sha256_hash::size());
    auto descriptor = m_pool.find(m_storage, key, write);
    return descriptor ? descriptor : m_pool.open(m_storage, key, path, write).descriptor;
}

void TorrentFiles::save_granules(std::int64_t offset, std::vector<lt::sha256_hash> const& hashes) {
    std::int64_t at = 0;
    if (auto const descriptor = granules_at(offset, true, at))
        pwrite_fully(descriptor->fd(), hashes.data()->data(),
                     std::int64_t(hashes.size() * lt::sha256_hash::size()), at);
}

std::optional<lt::sha256_hash> TorrentFiles::granule(std::int64_t offset) {
    lt::sha256_hash hash;
    std::int64_t at = 0;
    auto const descriptor = granules_at(offset, false, at);
    if (!descriptor || pread_fully(descriptor->fd(), hash.data(), std::int64_t(hash.size()), at))
        return std::nullopt;
    return hash;
}

FileError TorrentFiles::read(std::int64_t offset, char* to, std::int64_t length) {
    return each(offset, length,
                [&](int file, std::int64_t at, std::int64_t done, std::int64_t count) -> FileError {
                    if (file < 0) {
                        std::memset(to + done, 0, std::size_t(count));
                        return {};
                    }
                    FileError error;
                    auto const descriptor = open(file, false, error);
                    if (!descriptor) return error;
                    return {pread_fully(descriptor->fd(), to + done, count, at), file, "read"};
                });
}

FileError TorrentFiles::write(std::int64_t offset, lt::span<lt::span<char const> const> parts) {
    std::int64_t length = 0;
    for (auto const& part : parts) length += part.size();
    auto const visit = [&](int file, std::int64_t at, std::int64_t done, std::int64_t count) -> FileError {
        if (file < 0) return {};
        FileError error;
        auto const descriptor = open(file, true, error);
        if (!descriptor) return error;
        auto const put = [&](std::int64_t from, std::int64_t to) {
            auto const first = at + from - done;
            return m_shared[std::size_t(file)]->write(m_storage, first, to - from, [&] {
                return pwritev_fully(descriptor->fd(), range_of(parts, from, to), first);
            });
        };
        if (auto const failed = put(done, done + count)) return {*failed, file, "write"};
        std::int64_t start = 0;
        for (auto const& part : parts) {
            auto const from = std::max(start, done);
            auto const to = std::min(start + std::int64_t(part.size()), done + count);
            int const failed = from < to ? put(from, to).value_or(0) : 0;
            if (failed) return {failed, file, "write"};
            start += part.size();
        }
        return {};
    };
    return each(offset, length, visit);
}

FileError TorrentFiles::restore_lost(std::int64_t offset, std::int64_t length) {
    return each(offset, length,
                [&](int file, std::int64_t at, std::int64_t, std::int64_t count) -> FileError {
                    if (file < 0) return {};
                    FileError error;
                    auto const held = open(file, false, error);
                    if (!held) return error;
                    struct stat by_descriptor {};
                    struct stat by_path {};
                    if (::fstat(held->fd(), &by_descriptor) != 0) return {errno, file, "stat"};
                    if (::lstat(path(file).c_str(), &by_path) == 0 &&
                        by_path.st_ino == by_descriptor.st_ino && by_path.st_dev == by_descriptor.st_dev)
                        return {};
                    std::vector<char> bytes(static_cast<std::size_t>(count));
                    if (int const failed = pread_fully(held->fd(), bytes.data(), count, at))
                        return {failed, file, "read"};
                    m_pool.close(m_storage, file);
                    auto const now = open(file, true, error);
                    if (!now) return error;
                    return {pwrite_fully(now->fd(), bytes.data(), count, at), file, "write"};
                });
}

}  // namespace silmaril
