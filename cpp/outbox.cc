#include "outbox.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <system_error>

namespace silmaril {

namespace {
constexpr char const* save_path_prefix = "/silmaril/";
}

Outbox::Outbox() : m_eventfd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (m_eventfd < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
}

Outbox::~Outbox() { ::close(m_eventfd); }

void Outbox::wake() const noexcept {
    std::uint64_t const one = 1;
    // It fails only if the counter is full, and then the event loop wakes anyway.
    [[maybe_unused]] auto const written = ::write(m_eventfd, &one, sizeof one);
}

void Outbox::wait(int milliseconds) const {
    pollfd entry{m_eventfd, POLLIN, 0};
    if (::poll(&entry, 1, milliseconds) < 0 && errno != EINTR)
        throw std::system_error(errno, std::generic_category(), "poll");
    std::uint64_t count;
    [[maybe_unused]] auto const drained = ::read(m_eventfd, &count, sizeof count);
}

void Outbox::push(Note note) {
    {
        std::lock_guard const lock(m_mutex);
        m_notes.push_back(std::move(note));
    }
    wake();
}

std::vector<Note> Outbox::drain() {
    std::lock_guard const lock(m_mutex);
    return std::exchange(m_notes, {});
}

void Outbox::register_files(std::uint64_t torrent, std::vector<GivenFile> files,
                            std::shared_ptr<Proof> proof) {
    std::lock_guard const lock(m_mutex);
    auto& entry = m_torrents[torrent];
    entry.files = std::move(files);
    entry.proof = std::move(proof);
}

std::shared_ptr<Proof> Outbox::proof_of(std::uint64_t torrent) const {
    std::lock_guard const lock(m_mutex);
    auto const found = m_torrents.find(torrent);
    return found == m_torrents.end() ? nullptr : found->second.proof;
}

std::optional<std::vector<GivenFile>> Outbox::files_of(std::uint64_t torrent) const {
    std::lock_guard const lock(m_mutex);
    auto const found = m_torrents.find(torrent);
    if (found == m_torrents.end()) return std::nullopt;
    return found->second.files;
}

void Outbox::storage_opened(std::uint64_t torrent) {
    std::lock_guard const lock(m_mutex);
    ++m_torrents[torrent].open_storages;
}

void Outbox::storage_closed(std::uint64_t torrent) {
    {
        std::lock_guard const lock(m_mutex);
        auto const found = m_torrents.find(torrent);
        if (found == m_torrents.end()) return;
        --found->second.open_storages;
        announce_if_removed(found);
    }
    wake();
}

void Outbox::torrent_gone(std::uint64_t torrent) {
    {
        std::lock_guard const lock(m_mutex);
        auto const entry = m_torrents.try_emplace(torrent).first;
        entry->second.gone = true;
        announce_if_removed(entry);
    }
    wake();
}

void Outbox::announce_if_removed(std::unordered_map<std::uint64_t, Entry>::iterator entry) {
    if (!entry->second.gone || entry->second.open_storages > 0) return;
    Note note{};
    note.kind = Note::Kind::removed;
    note.torrent = entry->first;
    m_notes.push_back(std::move(note));
    m_torrents.erase(entry);
}

std::string save_path_of(std::uint64_t torrent) { return save_path_prefix + std::to_string(torrent); }

std::optional<std::uint64_t> torrent_of(std::string const& save_path) {
    std::string const prefix = save_path_prefix;
    if (save_path.compare(0, prefix.size(), prefix) != 0) return std::nullopt;
    std::uint64_t torrent = 0;
    auto const begin = save_path.data() + prefix.size();
    auto const end = save_path.data() + save_path.size();
    auto const [rest, error] = std::from_chars(begin, end, torrent);
    if (error != std::errc{} || rest != end) return std::nullopt;
    return torrent;
}

}  // namespace silmaril
