// The one place that knows libtorrent versions.
#pragma once

#include <netinet/tcp.h>
#include <sys/socket.h>

#include <cstdint>
#include <libtorrent/aux_/socket_type.hpp>
#include <libtorrent/peer_connection.hpp>
#include <libtorrent/peer_connection_handle.hpp>
#include <libtorrent/settings_pack.hpp>
#include <libtorrent/stat.hpp>
#include <libtorrent/torrent.hpp>
#include <libtorrent/version.hpp>

// The version that the patches in cpp/engine/ are made for. 2.1 changes disk_interface (check results become
// flags, storage_params grows), so disk.cc has to be ported to it first.
#if LIBTORRENT_VERSION_NUM != 20011
#error "silmaril needs the engine that 'make setup' builds: libtorrent 2.0.11 with patches"
#endif

namespace silmaril {

// How many requests libtorrent keeps under way at a peer. There is no setting for it: it follows from the
// rate of the last seconds, so a peer that was idle gets two at a time, and a read of 1 MiB takes 32 round
// trips. To be called on the network thread.
class RequestQueue : lt::peer_connection {
public:
    static void open(lt::peer_connection_handle const& peer, std::uint16_t requests) {
        auto const connection = peer.native_handle();
        if (!connection) return;
        auto& desired = (*connection).*(&RequestQueue::m_desired_queue_size);
        if (desired < requests) desired = requests;
    }
};

// The peers that a torrent knows; null before the first. libtorrent has no other way to look at the list. To
// be called on the network thread.
class PeerList : lt::torrent_hot_members {
public:
    static lt::peer_list* of(lt::torrent& torrent) {
        // The base is private, which only this form of cast passes over.
        auto& base = (lt::torrent_hot_members&)(torrent);
        return (base.*(&PeerList::m_peer_list)).get();
    }
};

// Whether a torrent counts as complete without a look at its pieces. libtorrent never takes that back by
// itself.
class HaveAll : lt::torrent_hot_members {
public:
    static void clear(lt::torrent& torrent) {
        // The base is private, and a bit field has no address.
        static_cast<HaveAll&>((lt::torrent_hot_members&)(torrent)).m_have_all = false;
    }
};

// Trackers pass on the port that they are told. At port 1, which no program listens on, no peer of theirs
// finds this node.
inline void announce_no_port(lt::settings_pack& pack) { pack.set_int(lt::settings_pack::announce_port, 1); }

// All bytes that have left for a peer.
inline std::int64_t bytes_sent(lt::peer_connection const& connection) {
    auto const& figures = connection.statistics();
    return figures.total_payload_upload() + figures.total_protocol_upload();
}

// Whether the other host has acknowledged nothing for so many milliseconds though it was sent something,
// twice or more. A host that does not read what it receives still acknowledges. False for connections over a
// proxy and uTP.
inline bool is_unanswered(lt::peer_connection& connection, std::uint32_t const milliseconds) {
    auto* const socket = boost::get<lt::tcp::socket>(&connection.get_socket());
    if (!socket || !socket->is_open()) return false;
    tcp_info state{};
    socklen_t length = sizeof state;
    if (getsockopt(socket->native_handle(), IPPROTO_TCP, TCP_INFO, &state, &length) != 0) return false;
    return state.tcpi_unacked > 0 && state.tcpi_retransmits >= 2 && state.tcpi_last_ack_recv > milliseconds;
}

// Whether any payload has gone either way.
inline bool has_transferred(lt::peer_connection const& connection) {
    auto const& figures = connection.statistics();
    return figures.total_payload_upload() > 0 || figures.total_payload_download() > 0;
}

}  // namespace silmaril
