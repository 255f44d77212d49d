// The part of the upload that is left to peers that waste it (waste.h).
//
// These peers together get at most `most` bytes a second, and while any other peer requests blocks, at most
// a sixteenth of what the other peers get, but at least `least`. They are never shut out, because a peer can
// be misjudged, and the other peers hardly notice so little. A limit that does not depend on the other peers
// would not do: what is in the kernel's buffers for the wasters when a reader connects is sent before its
// blocks.
//
// Used on the network thread only.
#pragma once

#include <cstdint>
#include <libtorrent/extensions.hpp>
#include <libtorrent/peer_class.hpp>
#include <libtorrent/peer_connection.hpp>
#include <memory>

namespace silmaril {

class Spare {
public:
    // The class of the wasters. Set once, before any torrent is added.
    void open(lt::peer_class_t wasters) { m_wasters = wasters; }
    lt::peer_class_t wasters() const { return m_wasters; }
    // From now on the peer has only its part of the spare upload, or no limit.
    void limit(lt::peer_connection& peer, bool limited) const;
    // Another peer received these bytes in the last second. `waits`: it has requested more.
    void served(std::int64_t bytes, bool waits);
    // The limit of all wasters for the next second, in bytes.
    int next_limit();

private:
    lt::peer_class_t m_wasters{};
    std::int64_t m_served = 0;
    bool m_waits = false;
};

// Sets the limit once a second.
std::shared_ptr<lt::plugin> limit_wasters(std::shared_ptr<Spare> spare);

}  // namespace silmaril
