// The upload to one peer: limited while the peer has a penalty because it wastes upload.
//
// Used on the network thread only.
#pragma once

#include <cstdint>
#include <libtorrent/peer_connection.hpp>
#include <libtorrent/peer_request.hpp>
#include <memory>

#include "guard.h"
#include "proof.h"
#include "spare.h"
#include "waste.h"

namespace silmaril {

class Meter {
public:
    // `proof`: null for a torrent without metadata, which uploads nothing.
    Meter(std::shared_ptr<Guard> guard, std::shared_ptr<Spare> spare, Proof const* proof,
          lt::address const& remote);

    // Must be called when the handshake is complete.
    void greeted(lt::peer_connection& peer, Clock::time_point now);
    // A block was requested.
    void requested(lt::peer_connection& peer) {
        if (!m_limited) m_spare->wanted(peer);
    }
    // A block was put into the send buffer.
    void sent(lt::peer_connection& peer, lt::peer_request const& block);
    // A CANCEL has arrived. Must be called before libtorrent removes the request.
    void cancelled(lt::peer_connection& peer, lt::peer_request const& block);
    // Must be called once a second.
    void tick(lt::peer_connection& peer, Clock::time_point now);
    bool is_limited() const { return m_limited; }

private:
    void wasted(lt::peer_connection& peer);

    std::shared_ptr<Guard> const m_guard;
    std::shared_ptr<Spare> const m_spare;
    lt::address const m_remote;
    std::int64_t const m_blocks_per_piece;
    Waste m_waste;
    bool m_limited = false;
    Clock::time_point m_ends;  // of the penalty
    std::int64_t m_uploaded = 0;
};

}  // namespace silmaril
