// What one torrent lets strangers see. The Engine, the plugin and the gate share one object per torrent.
#pragma once

#include <atomic>

namespace silmaril {

struct Visibility {
    // Stored but not to be shared: no connection is accepted, and no request for data, metadata or hashes is
    // answered on the connections that this node makes itself. May be changed from any thread; the next
    // message obeys it.
    std::atomic<bool> withheld{false};
    // Peers do not learn the port that this node listens on, so they cannot pass it on.
    bool unlisted = false;

    bool hides_port() const { return withheld || unlisted; }
};

}  // namespace silmaril
