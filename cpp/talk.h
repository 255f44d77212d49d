// Messages between silmaril peers: the BEP 10 extension `silmaril_catalog`. This module does not interpret
// the messages.
//
// A peer "speaks" from the extension handshake that enables the extension until a handshake that disables it,
// or until the end of the connection. Each such period has its own number, which is never reused. The waiting
// messages are bounded in both directions: a peer is disconnected if it does not read, or if it sends faster
// than its messages are handled.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <libtorrent/bdecode.hpp>
#include <libtorrent/entry.hpp>
#include <libtorrent/io_context.hpp>
#include <libtorrent/peer_connection_handle.hpp>
#include <libtorrent/span.hpp>
#include <libtorrent/torrent_handle.hpp>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "guard.h"
#include "outbox.h"

namespace silmaril {

// The longest message, in bytes, without its framing.
constexpr std::size_t max_message = 64 * 1024;

class Speaker;

// The peers that speak, and access to them from other threads.
class Talk {
public:
    // `open` and `post` may be called from any thread.
    void open(lt::io_context& network);
    // Ends posting. Must be called before the session ends.
    void close();
    // Runs the task on the network thread, after all earlier posts to libtorrent. The task must not throw.
    // False if the session is over.
    bool post(std::function<void()> task);

    // Sends a message; false if too many bytes wait for the network thread. A message to a disconnected peer
    // is dropped.
    static bool send(std::shared_ptr<Talk> const& talk, std::uint64_t peer, lt::span<char const> message);
    // Closes a peer's connection. `misbehaved`: see Speaker::disconnect.
    static void disconnect(std::shared_ptr<Talk> const& talk, std::uint64_t peer, bool misbehaved);

    // The functions below are for the network thread only.
    std::uint64_t add(Speaker& speaker);
    void remove(std::uint64_t peer);
    void torrent_added(std::uint64_t torrent, lt::torrent_handle handle);
    void torrent_gone(std::uint64_t torrent);
    // An invalid handle if the torrent does not exist.
    lt::torrent_handle torrent(std::uint64_t torrent) const;

private:
    std::mutex m_mutex;
    lt::io_context* m_network = nullptr;    // guarded by the mutex
    std::atomic<std::size_t> m_to_post{0};  // bytes of messages that wait for the network thread
    std::uint64_t m_last_peer = 0;
    std::unordered_map<std::uint64_t, Speaker*> m_speakers;
    std::unordered_map<std::uint64_t, lt::torrent_handle> m_torrents;
};

// The extension on one connection. Used on the network thread only.
class Speaker {
public:
    Speaker(std::shared_ptr<Talk> talk, std::shared_ptr<Outbox> outbox, std::shared_ptr<Guard> guard,
            std::uint64_t torrent, lt::peer_connection_handle connection);
    ~Speaker();
    Speaker(Speaker const&) = delete;
    Speaker& operator=(Speaker const&) = delete;

    // Adds the extension to our handshake.
    static void offer(lt::entry& handshake);
    void on_handshake(lt::bdecode_node const& handshake);
    // Called by libtorrent each time a further part of a message has arrived. True if the message belongs to
    // this extension.
    bool on_message(int length, int id, lt::span<char const> so_far);
    // The connection has ended.
    void on_disconnect();

    // Sends a framed message, after setting the peer's number of the extension in it.
    void send(std::vector<char>& frame);
    // `misbehaved`: the peer is refused for a while (guard.h), and libtorrent counts a failure and waits
    // longer before it connects to the peer again.
    void disconnect(bool misbehaved);

private:
    void begin(lt::tcp::endpoint const& callable);
    void end();

    std::shared_ptr<Talk> const m_talk;
    std::shared_ptr<Outbox> const m_outbox;
    std::shared_ptr<Guard> const m_guard;
    std::uint64_t const m_torrent;
    lt::peer_connection_handle m_connection;  // weak
    std::uint64_t m_number = 0;               // 0: does not speak
    std::uint8_t m_their_id = 0;
    int m_begun = 0;
    // Bytes of the peer's messages in the outbox.
    std::shared_ptr<std::atomic<std::size_t>> const m_unread = std::make_shared<std::atomic<std::size_t>>(0);
    // Our messages in libtorrent's send buffer: the position of each end in the stream of sent bytes, and its
    // share of m_unsent_bytes.
    std::deque<std::pair<std::int64_t, std::size_t>> m_unsent;
    std::size_t m_unsent_bytes = 0;
};

}  // namespace silmaril
