#include "shared_paths.h"

#include <algorithm>

namespace silmaril {

bool SharedFile::proved_by_other(std::uint64_t storage, std::int64_t at, std::int64_t count) const {
    std::lock_guard const lock(m_mutex);
    return std::any_of(m_users.begin(), m_users.end(),
                       [&](auto const& user) { return user.first != storage && user.second(at, count); });
}

bool SharedFile::wait_for_writes(std::uint64_t storage) {
    { std::unique_lock const lock(m_writing); }
    std::lock_guard const lock(m_mutex);
    return std::any_of(m_users.begin(), m_users.end(),
                       [storage](auto const& user) { return user.first != storage; });
}

std::shared_ptr<SharedFile> SharedPaths::join(std::string const& path, std::uint64_t storage,
                                              SharedFile::Proved proved) {
    std::lock_guard const lock(m_mutex);
    auto& file = m_files[path];
    if (!file) file = std::make_shared<SharedFile>();
    std::lock_guard const users(file->m_mutex);
    file->m_users[storage] = std::move(proved);
    return file;
}

void SharedPaths::leave(std::string const& path, std::uint64_t storage) {
    std::lock_guard const lock(m_mutex);
    auto const found = m_files.find(path);
    if (found == m_files.end()) return;
    bool empty;
    {
        std::lock_guard const users(found->second->m_mutex);
        found->second->m_users.erase(storage);
        empty = found->second->m_users.empty();
    }
    if (empty) m_files.erase(found);
}

}  // namespace silmaril
