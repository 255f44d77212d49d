#include "liveness.h"

#include <array>
#include <cerrno>
#include <libtorrent/peer_connection.hpp>
#include <libtorrent/torrent.hpp>

#include "compat.h"
#include "local_address.h"

namespace silmaril {

namespace {

// How often a peer is probed that sends nothing although pieces are wanted. If its host does not acknowledge
// the probe either, the host is gone, and the connection is closed: it would prevent a new connection to the
// same address.
constexpr auto probe_every = std::chrono::seconds(2);
constexpr std::uint32_t probe_answered_within = 4000;  // milliseconds

// If pieces are wanted and a peer has sent no message for this many seconds, it is silent.
constexpr int silent_after = 10;

bool wants_pieces(lt::peer_connection const& connection) {
    auto const torrent = connection.associated_torrent().lock();
    return torrent && torrent->valid_metadata() && !torrent->is_finished();
}

}  // namespace

bool Liveness::tick() {
    count_silence();
    return has_address() && probe();
}

bool Liveness::is_silent_seed() const {
    auto const connection = m_connection.native_handle();
    return connection && m_silent_seconds >= silent_after && connection->is_seed();
}

void Liveness::count_silence() {
    auto const connection = m_connection.native_handle();
    bool const heard = Clock::now() - m_last_heard < std::chrono::seconds(1);
    m_silent_seconds = connection && wants_pieces(*connection) && !heard ? m_silent_seconds + 1 : 0;
}

bool Liveness::has_address() {
    auto const connection = m_connection.native_handle();
    if (!connection || is_local(connection->local_endpoint().address())) return true;
    // No packet can arrive on such a connection, and while it exists libtorrent does not connect to the peer
    // from another address.
    connection->disconnect(lt::error_code(EADDRNOTAVAIL, boost::system::system_category()),
                           lt::operation_t::bittorrent);
    return false;
}

bool Liveness::probe() {
    auto const now = Clock::now();
    auto const connection = m_connection.native_handle();
    if (!connection || now - m_last_heard < probe_every || !wants_pieces(*connection)) return true;
    if (is_unanswered(*connection, probe_answered_within)) {
        connection->disconnect(lt::errors::make_error_code(lt::errors::timed_out_inactivity),
                               lt::operation_t::bittorrent);
        return false;
    }
    if (now - m_probed >= probe_every) {
        // BEP 3: a message of length 0 keeps the connection alive.
        constexpr std::array<char, 4> keep_alive{};
        m_connection.send_buffer(keep_alive.data(), int(keep_alive.size()));
        m_probed = now;
    }
    return true;
}

}  // namespace silmaril
