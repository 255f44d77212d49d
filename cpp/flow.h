// The flow of blocks over a connection, see pace.h. Used on the network thread only.
#pragma once

#include <cstdint>
#include <libtorrent/peer_connection.hpp>

#include "pace.h"

namespace silmaril {

// Number of requests that were sent to the peer or wait to be sent.
inline int requests_to(lt::peer_connection const& peer) {
    return int(peer.download_queue().size() + peer.request_queue().size());
}

// Bytes of blocks that it has sent.
inline std::int64_t received(lt::peer_connection const& peer) {
    return peer.statistics().total_payload_download();
}

inline Flow flow_of(lt::peer_connection const& peer) {
    return {requests_to(peer), received(peer), peer.statistics().download_payload_rate()};
}

}  // namespace silmaril
