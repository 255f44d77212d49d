// Limits the upload to peers that waste it (waste.h).
//
// While any other peer requests blocks, these peers together get a sixteenth of what the other peers get,
// within bounds. The limit is never zero, because a peer can be misjudged, and so little upload costs the
// other peers almost nothing.
//
// While no other peer requests blocks, the limit is what the link carries: a reader whose cache is smaller
// than the model fetches the same blocks again and again. The limit grows until the kernel holds more than 2
// MiB for these peers, because what is in its buffers when a reader connects is sent before the
// reader's blocks.
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
    // The class of the wasters: a class of its own, because its limit holds for each of its peers.
    explicit Spare(lt::peer_class_t wasters) : m_wasters(wasters) {}
    lt::peer_class_t wasters() const { return m_wasters; }
    // From now on the peer has only its part of the spare upload, or no limit.
    void limit(lt::peer_connection& peer, bool limited) const;
    // Another peer has requested a block: the limit holds from now on.
    void wanted(lt::peer_connection& peer);
    // Another peer received these bytes in the last second. `waits`: it wanted any.
    void served(std::int64_t bytes, bool waits);
    // A waster received these bytes in the last second, and so many are in the kernel's buffer for it.
    void spared(std::int64_t bytes, std::int64_t queue);
    // The limit of all wasters for the next second, in bytes. Must be called once a second.
    int next_limit();

private:
    lt::peer_class_t const m_wasters;
    std::int64_t m_served = 0;
    bool m_waits = false;
    bool m_wanted = false;  // since the last limit, or before it
    std::int64_t m_spared = 0;
    std::int64_t m_queue = 0;
    std::int64_t m_free = 1 << 20;  // the limit while no other peer requests blocks
};

// Sets the limit once a second.
std::shared_ptr<lt::plugin> limit_wasters(std::shared_ptr<Spare> spare);

}  // namespace silmaril
