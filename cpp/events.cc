#include "events.h"

#include <libtorrent/alert_types.hpp>
#include <libtorrent/error_code.hpp>
#include <libtorrent/torrent_info.hpp>
#include <libtorrent/torrent_status.hpp>

#include "silmaril/src/ffi.rs.h"

namespace silmaril {

namespace {

RawEvent with_endpoint(RawEvent event, lt::address const& address, int port) {
    event.address = address.to_string();
    event.port = std::uint16_t(port);
    return event;
}

// Reasons may come from other programs, so bytes that are not UTF-8 are replaced.
rust::String text_of(std::string const& text) { return rust::String::lossy(text); }

}  // namespace

lt::client_data_t tag_of(std::uint64_t torrent) {
    return lt::client_data_t(reinterpret_cast<TorrentTag*>(std::uintptr_t(torrent)));
}

std::uint64_t torrent_of(lt::client_data_t data) {
    return std::uint64_t(reinterpret_cast<std::uintptr_t>(data.get<TorrentTag>()));
}

rust::Vec<std::uint8_t> bytes_of(char const* data, std::size_t size) {
    if (size == 0) return {};
    return vec_of({reinterpret_cast<std::uint8_t const*>(data), size});
}

RawEvent event_of(RawKind kind, std::uint64_t torrent) {
    RawEvent event{};
    event.kind = kind;
    event.torrent = torrent;
    return event;
}

namespace {

RawEvent event_of_piece(RawKind kind, Note const& note) {
    auto event = event_of(kind, note.torrent);
    event.piece = std::uint32_t(note.piece);
    return event;
}

}  // namespace

RawEvent event_of(Note note) {
    switch (note.kind) {
        case Note::Kind::removed:
            return event_of(RawKind::Removed, note.torrent);
        case Note::Kind::disk_error: {
            auto event = event_of(RawKind::DiskError, note.torrent);
            event.path = bytes_of(note.path.data(), note.path.size());
            event.text = text_of(note.text);
            event.code = note.error;
            return event;
        }
        case Note::Kind::piece_proved:
            return event_of_piece(RawKind::PieceVerified, note);
        case Note::Kind::piece_damaged:
            return event_of_piece(RawKind::PieceDamaged, note);
        case Note::Kind::blocks_proved: {
            auto event = event_of_piece(RawKind::BlocksVerified, note);
            event.first = std::uint32_t(note.first);
            event.count = std::uint32_t(note.count);
            return event;
        }
        case Note::Kind::blocks_refused:
            return event_of_piece(RawKind::BlocksRefused, note);
        case Note::Kind::withdrawn:
            return event_of_piece(RawKind::Withdrawn, note);
        case Note::Kind::peer_speaks: {
            auto event = with_endpoint(event_of(RawKind::PeerSpeaks, note.torrent), note.endpoint.address(),
                                       note.endpoint.port());
            event.peer = note.peer;
            event.flag = note.outgoing;
            return event;
        }
        case Note::Kind::peer_message: {
            auto event = event_of(RawKind::PeerMessage, note.torrent);
            event.peer = note.peer;
            event.data = bytes_of(note.data.data(), note.data.size());
            if (note.unread) note.unread->fetch_sub(note.counts);
            return event;
        }
        case Note::Kind::peer_left: {
            auto event = event_of(RawKind::PeerLeft, note.torrent);
            event.peer = note.peer;
            return event;
        }
        case Note::Kind::silent_seeds: {
            auto event = event_of(RawKind::SilentSeeds, note.torrent);
            event.seeds = std::uint32_t(note.seeds);
            return event;
        }
        case Note::Kind::readers: {
            auto event = event_of(RawKind::Readers, note.torrent);
            event.count = std::uint32_t(note.count);
            return event;
        }
        case Note::Kind::peer_connected:
        case Note::Kind::peer_disconnected:
            break;
    }
    bool const connected = note.kind == Note::Kind::peer_connected;
    auto event =
        with_endpoint(event_of(connected ? RawKind::PeerConnected : RawKind::PeerDisconnected, note.torrent),
                      note.endpoint.address(), note.endpoint.port());
    event.text = text_of(note.text);
    event.flag = note.outgoing;
    return event;
}

void translate(lt::alert const& alert, rust::Vec<RawEvent>& events) {
    auto const torrent = [](lt::torrent_alert const& a) {
        return a.handle.is_valid() ? torrent_of(a.handle.userdata()) : 0;
    };

    if (auto const* a = lt::alert_cast<lt::piece_finished_alert>(&alert)) {
        auto event = event_of(RawKind::PieceVerified, torrent(*a));
        event.piece = std::uint32_t(static_cast<int>(a->piece_index));
        events.push_back(std::move(event));
    } else if (auto const* a = lt::alert_cast<lt::hash_failed_alert>(&alert)) {
        auto event = event_of(RawKind::PieceRejected, torrent(*a));
        event.piece = std::uint32_t(static_cast<int>(a->piece_index));
        events.push_back(std::move(event));
    } else if (auto const* a = lt::alert_cast<lt::state_update_alert>(&alert)) {
        for (auto const& status : a->status) {
            if (!status.handle.is_valid()) continue;
            auto event = event_of(RawKind::Stats, torrent_of(status.handle.userdata()));
            event.downloaded = std::uint64_t(status.total_payload_download);
            event.uploaded = std::uint64_t(status.total_payload_upload);
            event.download_rate = std::uint64_t(status.download_payload_rate);
            event.upload_rate = std::uint64_t(status.upload_payload_rate);
            event.peers = std::uint32_t(status.num_peers);
            event.seeds = std::uint32_t(status.num_seeds);
            events.push_back(std::move(event));
        }
    } else if (auto const* a = lt::alert_cast<lt::torrent_error_alert>(&alert)) {
        bool const ours = a->error.category() == lt::libtorrent_category();
        auto event = event_of(ours ? RawKind::Failed : RawKind::Stopped, torrent(*a));
        event.text = text_of(a->error.message());
        events.push_back(std::move(event));
    } else if (auto const* a = lt::alert_cast<lt::metadata_received_alert>(&alert)) {
        auto const info = a->handle.is_valid() ? a->handle.torrent_file() : nullptr;
        if (!info) return;
        auto event = event_of(RawKind::Metadata, torrent(*a));
        event.data = bytes_of(info->info_section().data(), std::size_t(info->info_section().size()));
        events.push_back(std::move(event));
    } else if (auto const* a = lt::alert_cast<lt::listen_succeeded_alert>(&alert)) {
        if (a->socket_type != lt::socket_type_t::tcp) return;
        events.push_back(with_endpoint(event_of(RawKind::Listening, 0), a->address, a->port));
    } else if (auto const* a = lt::alert_cast<lt::listen_failed_alert>(&alert)) {
        auto event = with_endpoint(event_of(RawKind::ListenFailed, 0), a->address, a->port);
        event.text = text_of(a->error.message());
        event.flag = a->error == boost::system::errc::address_in_use;
        events.push_back(std::move(event));
    } else if (lt::alert_cast<lt::alerts_dropped_alert>(&alert)) {
        events.push_back(event_of(RawKind::EventsLost, 0));
    }
}

}  // namespace silmaril
