// What follows from a piece whose bytes are wrong, besides what libtorrent does.
//
// A piece that came from one peer proves that this peer lies: libtorrent bans it. Of a piece that came from
// several, libtorrent suspects all ("parole"): a suspect may only fetch pieces that no other peer has a part
// in, so that the next wrong piece proves one liar. Four things are missing there. A suspect cannot finish a
// piece of which another peer, perhaps a banned one, has sent a part, even if no other peer remains. Suspects
// get no urgent requests, so a reader waits until one of them happens to speak. And four pieces that were
// fetched with liars get an honest peer banned. A peer that falls silent keeps its piece from all suspects.
// For the network thread alone.
#pragma once

#include <cstdint>
#include <functional>
#include <libtorrent/peer_connection.hpp>
#include <libtorrent/piece_picker.hpp>
#include <libtorrent/torrent.hpp>
#include <libtorrent/torrent_handle.hpp>
#include <map>
#include <memory>
#include <vector>

namespace silmaril {

class Blame : public std::enable_shared_from_this<Blame> {
public:
    // `connections`: those of the torrent, in the order in which they are to be asked.
    using Connections = std::function<std::vector<std::shared_ptr<lt::peer_connection>>()>;
    Blame(lt::torrent_handle handle, Connections connections)
        : m_handle(std::move(handle)), m_connections(std::move(connections)) {}

    // The hash of the piece is wrong. To be called before libtorrent penalizes the peers that sent it.
    void piece_failed(lt::piece_index_t piece);
    // A failed piece may be requested again.
    void piece_cleared();
    // A connection has ended, perhaps that of a liar.
    void peer_gone();
    // To be called once a second.
    void tick();

private:
    struct Progress {
        std::int64_t received = 0;  // bytes of pieces
        int silent = 0;             // seconds
    };
    // Asks peers that have nothing to do.
    void ask();
    void take_from_silent();

    lt::torrent_handle const m_handle;
    Connections const m_connections;
    int m_ticks = 0;  // left since the last failure
    bool m_posted = false;
    std::map<lt::peer_connection const*, Progress> m_progress;  // keys are not followed
};

}  // namespace silmaril
