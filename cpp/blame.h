// Reactions to a piece with wrong bytes, in addition to those of libtorrent.
//
// If a wrong piece came from one peer, this peer lies, and libtorrent bans it. If it came from several peers,
// libtorrent suspects all of them ("parole"): a suspect may fetch only pieces to which no other peer
// contributes, so the next wrong piece identifies a liar. libtorrent has four gaps there. A suspect cannot
// finish a piece of which another peer has sent a part, even if that peer is banned or no other peer remains.
// Suspects get no urgent requests, so a reader waits until one of them sends a message. An honest peer is
// banned after four pieces that it fetched together with liars. A peer that stops sending blocks its piece
// for all suspects. Used on the network thread only.
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
    // `connections` returns the connections of the torrent, in the order in which they get requests.
    using Connections = std::function<std::vector<std::shared_ptr<lt::peer_connection>>()>;
    Blame(lt::torrent_handle handle, Connections connections)
        : m_handle(std::move(handle)), m_connections(std::move(connections)) {}

    // The hash of the piece is wrong. Must be called before libtorrent penalizes the peers that sent it.
    void piece_failed(lt::piece_index_t piece);
    // A failed piece may be requested again.
    void piece_cleared();
    // A connection has ended, perhaps that of a liar.
    void peer_gone();
    // Whether a piece failed lately. The rest of such pieces is requested from single peers.
    bool is_active() const { return m_ticks > 0; }
    // Must be called once a second.
    void tick();

private:
    struct Progress {
        std::int64_t received = 0;  // bytes of pieces
        int silent = 0;             // seconds
    };
    // Sends requests to peers without pending requests.
    void request_blocks();
    // Cancels the requests to silent peers that another peer can answer.
    void cancel_silent();

    lt::torrent_handle const m_handle;
    Connections const m_connections;
    int m_ticks = 0;  // seconds left in which peers get requests
    bool m_posted = false;
    std::map<lt::peer_connection const*, Progress> m_progress;  // keys are never dereferenced
};

}  // namespace silmaril
