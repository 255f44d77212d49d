// The parts of one torrent that strangers can see. The engine and the plugin share one object per torrent.
#pragma once

#include <atomic>

namespace silmaril {

struct Visibility {
    // The torrent is stored but must not be shared: no connection is accepted, and on outgoing connections no
    // request for data, metadata or hashes is answered. May be changed from any thread; applies from the next
    // message on.
    std::atomic<bool> withheld{false};
    // Peers do not learn the listen port of this node, so they cannot pass it on.
    bool unlisted = false;

    bool hides_port() const { return withheld || unlisted; }
};

}  // namespace silmaril
