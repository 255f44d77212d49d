// Alerts of libtorrent that change the state of the engine's torrents, and the queue of events for Rust.

#include <libtorrent/add_torrent_params.hpp>
#include <libtorrent/alert_types.hpp>
#include <optional>
#include <utility>

#include "dht.h"
#include "events.h"
#include "layers.h"
#include "session.h"
#include "silmaril/src/ffi.rs.h"

namespace silmaril {

rust::Vec<RawEvent> Engine::wait(std::int32_t milliseconds) const {
    m_outbox->wait(milliseconds);
    rust::Vec<RawEvent> events;
    // Notes come before the alerts that they cause: a disk error comes before libtorrent's reaction to it.
    for (auto& note : m_outbox->drain()) events.push_back(event_of(std::move(note)));
    {
        std::lock_guard const lock(m_mutex);
        if (m_session) {
            std::vector<lt::alert*> alerts;  // valid until the next pop
            m_session->pop_alerts(&alerts);
            for (auto const* alert : alerts)
                if (!handle(*alert, events) && !translate_dht(*alert, events)) translate(*alert, events);
        }
    }
    return events;
}

bool Engine::handle(lt::alert const& alert, rust::Vec<RawEvent>& events) const {
    auto const fail = [&](std::uint64_t torrent, std::string const& reason) {
        m_torrents.erase(torrent);
        auto event = event_of(RawKind::Failed, torrent);
        event.text = rust::String::lossy(reason);
        events.push_back(std::move(event));
    };
    if (auto const* a = lt::alert_cast<lt::add_torrent_alert>(&alert)) {
        auto const torrent = torrent_of(a->params.userdata);
        auto const found = m_torrents.find(torrent);
        if (found == m_torrents.end()) return true;
        bool const removing = found->second.removing;
        if (a->error) {
            if (!removing) fail(torrent, a->error.message());
            m_torrents.erase(torrent);
            m_outbox->torrent_gone(torrent);
            return true;
        }
        found->second.handle = a->handle;
        if (!removing && !found->second.info) {
            // A magnet has nothing to check.
            found->second.ready = true;
            events.push_back(event_of(RawKind::Added, torrent));
            for (auto const& request : std::exchange(found->second.waiting, {})) request(a->handle);
        }
        return true;
    }
    if (auto const* a = lt::alert_cast<lt::torrent_checked_alert>(&alert)) {
        auto const torrent = a->handle.is_valid() ? torrent_of(a->handle.userdata()) : 0;
        auto* const state = find(torrent);
        if (!state || state->ready) return true;
        state->ready = true;
        events.push_back(event_of(RawKind::Added, torrent));
        for (auto const& request : std::exchange(state->waiting, {})) request(a->handle);
        return true;
    }
    if (auto const* a = lt::alert_cast<lt::piece_finished_alert>(&alert)) {
        auto* const state = a->handle.is_valid() ? find(torrent_of(a->handle.userdata())) : nullptr;
        // While libtorrent adds the torrent, it reports every piece that is present.
        if (!state || !state->ready) return true;
        int const piece = static_cast<int>(a->piece_index);
        state->requested.erase(std::uint32_t(piece));
        // A piece that is not proved yet is reported when its hash is proved.
        return !state->proof || !state->proof->pass(piece);
    }
    if (auto const* a = lt::alert_cast<lt::torrent_removed_alert>(&alert)) {
        auto const torrent = torrent_of(a->userdata);
        m_torrents.erase(torrent);
        m_outbox->torrent_gone(torrent);
        return true;
    }
    if (auto const* a = lt::alert_cast<lt::save_resume_data_alert>(&alert)) {
        if (a->handle.is_valid()) answer_save(torrent_of(a->handle.userdata()), &a->params, events);
        return true;
    }
    if (auto const* a = lt::alert_cast<lt::save_resume_data_failed_alert>(&alert)) {
        if (a->handle.is_valid()) answer_save(torrent_of(a->handle.userdata()), nullptr, events);
        return true;
    }
    return false;
}

void Engine::answer_save(std::uint64_t torrent, lt::add_torrent_params const* saved,
                         rust::Vec<RawEvent>& events) const {
    auto const found = m_torrents.find(torrent);
    if (found == m_torrents.end() || found->second.saves.empty()) return;
    bool const export_all = found->second.saves.front();
    found->second.saves.pop_front();
    auto event = event_of(export_all ? RawKind::Metainfo : RawKind::ResumeData, torrent);
    std::optional<std::vector<char>> bytes;
    if (saved) bytes = export_all ? metainfo_with_layers(*saved) : pack_layers(*saved);
    event.flag = bytes.has_value();
    if (bytes) event.data = bytes_of(bytes->data(), bytes->size());
    events.push_back(std::move(event));
}

}  // namespace silmaril
