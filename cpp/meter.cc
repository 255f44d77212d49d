#include "meter.h"

#include <algorithm>
#include <libtorrent/stat.hpp>
#include <random>

#include "compat.h"

namespace silmaril {

Meter::Meter(std::shared_ptr<Guard> guard, std::shared_ptr<Spare> spare, Proof const* proof,
             lt::address const& remote)
    : m_guard(std::move(guard)),
      m_spare(std::move(spare)),
      m_remote(remote),
      m_blocks_per_piece(proof ? proof->blocks_per_piece() : 1),
      m_waste(proof ? proof->pieces() * m_blocks_per_piece : 0, std::random_device{}()) {}

void Meter::greeted(lt::peer_connection& peer, Clock::time_point now) {
    m_ends = m_guard->waste_ends(m_remote);
    m_limited = now < m_ends;
    // Before the first block, which would fill the buffers of the kernel.
    if (m_limited) m_spare->limit(peer, true);
}

void Meter::sent(lt::peer_connection& peer, lt::peer_request const& block) {
    auto const number = static_cast<int>(block.piece) * m_blocks_per_piece + block.start / block_size;
    if (m_waste.sent(number)) wasted(peer);
}

void Meter::cancelled(lt::peer_connection& peer, lt::peer_request const& block) {
    auto const& waiting = peer.upload_queue();
    bool const late = std::find(waiting.begin(), waiting.end(), block) == waiting.end();
    if (late && m_waste.cancelled()) wasted(peer);
}

void Meter::wasted(lt::peer_connection& peer) {
    if (m_guard->is_named(m_remote)) return;
    m_ends = m_guard->wasted(m_remote, Clock::now());
    m_limited = true;
    m_spare->limit(peer, true);
}

void Meter::tick(lt::peer_connection& peer, Clock::time_point now) {
    m_limited = now < m_ends;
    m_spare->limit(peer, m_limited);
    auto const uploaded = peer.statistics().total_payload_upload();
    auto const before = std::exchange(m_uploaded, uploaded);
    if (m_limited)
        m_spare->spared(uploaded - before, unacknowledged(peer));
    else
        // The queue is empty while all requested blocks are in a send buffer, of libtorrent or of the kernel.
        m_spare->served(uploaded - before, uploaded > before || !peer.upload_queue().empty() ||
                                               peer.send_buffer_size() > 0 || unacknowledged(peer) > 0);
}

}  // namespace silmaril
