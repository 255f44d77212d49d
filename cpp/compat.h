// The one place that knows libtorrent versions.
#pragma once

#include <cstdint>
#include <libtorrent/peer_connection.hpp>
#include <libtorrent/peer_connection_handle.hpp>
#include <libtorrent/settings_pack.hpp>
#include <libtorrent/stat.hpp>
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

// Trackers pass on the port that they are told. At port 1, which no program listens on, no peer of theirs
// finds this node.
inline void announce_no_port(lt::settings_pack& pack) { pack.set_int(lt::settings_pack::announce_port, 1); }

// All bytes that have left for a peer.
inline std::int64_t bytes_sent(lt::peer_connection const& connection) {
    auto const& figures = connection.statistics();
    return figures.total_payload_upload() + figures.total_protocol_upload();
}

// Whether any payload has gone either way.
inline bool has_transferred(lt::peer_connection const& connection) {
    auto const& figures = connection.statistics();
    return figures.total_payload_upload() > 0 || figures.total_payload_download() > 0;
}

}  // namespace silmaril
