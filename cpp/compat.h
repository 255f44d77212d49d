// Code that depends on the version of libtorrent.
#pragma once

#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cstdint>
#include <libtorrent/aux_/socket_type.hpp>
#include <libtorrent/peer_connection.hpp>
#include <libtorrent/peer_connection_handle.hpp>
#include <libtorrent/settings_pack.hpp>
#include <libtorrent/stat.hpp>
#include <libtorrent/torrent.hpp>
#include <libtorrent/version.hpp>

// The patches in cpp/engine/ are made for this version. 2.1 changes disk_interface (check results become
// flags, storage_params has more fields), so disk.cc must be ported first.
#if LIBTORRENT_VERSION_NUM != 20011
#error "silmaril needs the engine that 'make setup' builds: libtorrent 2.0.11 with patches"
#endif

namespace silmaril {

// Sets how many requests libtorrent keeps in flight to a peer. There is no setting for it: libtorrent
// computes the number from the rate of the last seconds. So an idle peer gets two requests at a time, and a
// read of 1 MiB takes 32 round trips. Must be called on the network thread.
class RequestQueue : lt::peer_connection {
public:
    static void open(lt::peer_connection_handle const& peer, std::uint16_t requests) {
        auto const connection = peer.native_handle();
        if (!connection) return;
        auto& desired = (*connection).*(&RequestQueue::m_desired_queue_size);
        if (desired < requests) desired = requests;
    }
};

// The list of peers that a torrent knows; null before the first. libtorrent has no public access to the list.
// Must be called on the network thread.
class PeerList : lt::torrent_hot_members {
public:
    static lt::peer_list* of(lt::torrent& torrent) {
        // The base class is private. Only a C-style cast ignores that.
        auto& base = (lt::torrent_hot_members&)(torrent);
        return (base.*(&PeerList::m_peer_list)).get();
    }
};

// The flag by which libtorrent treats a torrent as complete without checking its pieces. libtorrent never
// clears it.
class HaveAll : lt::torrent_hot_members {
public:
    static void clear(lt::torrent& torrent) {
        // The base class is private, and a bit field has no address.
        static_cast<HaveAll&>((lt::torrent_hot_members&)(torrent)).m_have_all = false;
    }
};

// Trackers pass on the announced port. No program listens on port 1, so with this port no peer of a tracker
// can connect to this node.
inline void announce_no_port(lt::settings_pack& pack) { pack.set_int(lt::settings_pack::announce_port, 1); }

// Number of bytes sent to a peer, including protocol overhead.
inline std::int64_t bytes_sent(lt::peer_connection const& connection) {
    auto const& statistics = connection.statistics();
    return statistics.total_payload_upload() + statistics.total_protocol_upload();
}

// Whether the other host has acknowledged nothing for this many milliseconds although data was sent to it at
// least twice. A host whose program does not read still acknowledges. False for connections over a proxy and
// for uTP.
inline bool is_unanswered(lt::peer_connection& connection, std::uint32_t const milliseconds) {
    auto* const socket = boost::get<lt::tcp::socket>(&connection.get_socket());
    if (!socket || !socket->is_open()) return false;
    tcp_info state{};
    socklen_t length = sizeof state;
    if (getsockopt(socket->native_handle(), IPPROTO_TCP, TCP_INFO, &state, &length) != 0) return false;
    return state.tcpi_unacked > 0 && state.tcpi_retransmits >= 2 && state.tcpi_last_ack_recv > milliseconds;
}

// Bytes in the kernel that the other host has not acknowledged. 0 for connections over a proxy and for uTP.
inline std::int64_t unacknowledged(lt::peer_connection& connection) {
    auto* const socket = boost::get<lt::tcp::socket>(&connection.get_socket());
    int bytes = 0;
    if (!socket || !socket->is_open() || ioctl(socket->native_handle(), SIOCOUTQ, &bytes) != 0) return 0;
    return bytes;
}

// The smoothed round trip in microseconds. 0 for connections over a proxy and for uTP.
inline std::int64_t round_trip(lt::peer_connection& connection) {
    auto* const socket = boost::get<lt::tcp::socket>(&connection.get_socket());
    if (!socket || !socket->is_open()) return 0;
    tcp_info state{};
    socklen_t length = sizeof state;
    if (getsockopt(socket->native_handle(), IPPROTO_TCP, TCP_INFO, &state, &length) != 0) return 0;
    return state.tcpi_rtt;
}

// Whether any payload was sent or received.
inline bool has_transferred(lt::peer_connection const& connection) {
    auto const& statistics = connection.statistics();
    return statistics.total_payload_upload() > 0 || statistics.total_payload_download() > 0;
}

}  // namespace silmaril
