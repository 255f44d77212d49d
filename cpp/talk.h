// Messages between silmaril's own peers: the BEP 10 extension `silmaril_catalog`. What the messages mean is
// not known here.
//
// A peer speaks from the moment its extension handshake names the extension until it takes that back or the
// connection ends; each such time has a number of its own, never used again. What waits is bounded on both
// sides: a peer that does not read what it is sent, or is not listened to as fast as it speaks, is hung up
// on.
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

#include "outbox.h"

namespace silmaril {

// The longest message, in bytes, without its framing.
constexpr std::size_t max_message = 64 * 1024;

class Speaker;

// The peers that speak, and the way to them from other threads.
class Talk {
public:
    // `open` and `post` may be called from any thread.
    void open(lt::io_context& network);
    // Nothing is posted any more. To be called before the session ends.
    void close();
    // Runs the task on the network thread, after what was posted to libtorrent before. It must not throw.
    // False when the session is over.
    bool post(std::function<void()> task);

    // Sends a message; false when too much waits to be posted. One to a peer that is gone is dropped.
    static bool send(std::shared_ptr<Talk> const& talk, std::uint64_t peer, lt::span<char const> message);
    static void hang_up(std::shared_ptr<Talk> const& talk, std::uint64_t peer);

    // The rest is for the network thread alone.
    std::uint64_t add(Speaker& speaker);
    void remove(std::uint64_t peer);
    void torrent_added(std::uint64_t torrent, lt::torrent_handle handle);
    void torrent_gone(std::uint64_t torrent);
    // Not valid when there is no such torrent.
    lt::torrent_handle torrent(std::uint64_t torrent) const;

private:
    std::mutex m_mutex;
    lt::io_context* m_network = nullptr;    // guarded by the mutex
    std::atomic<std::size_t> m_to_post{0};  // bytes of messages on the way to the network thread
    std::uint64_t m_last_peer = 0;
    std::unordered_map<std::uint64_t, Speaker*> m_speakers;
    std::unordered_map<std::uint64_t, lt::torrent_handle> m_torrents;
};

// One connection's side of the extension. For the network thread alone.
class Speaker {
public:
    Speaker(std::shared_ptr<Talk> talk, std::shared_ptr<Outbox> outbox, std::uint64_t torrent,
            lt::peer_connection_handle connection);
    ~Speaker();
    Speaker(Speaker const&) = delete;
    Speaker& operator=(Speaker const&) = delete;

    // Puts the extension into our handshake.
    static void offer(lt::entry& handshake);
    void on_handshake(lt::bdecode_node const& handshake);
    // libtorrent calls it each time more of a message has come. True when the message is of this extension.
    bool on_message(int length, int id, lt::span<char const> so_far);
    // The connection has ended.
    void on_disconnect();

    // A framed message; this fills in the peer's number of the extension.
    void send(std::vector<char>& frame);
    // `misbehaved`: libtorrent is in no hurry to call it again.
    void hang_up(bool misbehaved);

private:
    void begin(lt::tcp::endpoint const& callable);
    void end();

    std::shared_ptr<Talk> const m_talk;
    std::shared_ptr<Outbox> const m_outbox;
    std::uint64_t const m_torrent;
    lt::peer_connection_handle m_connection;  // weak
    std::uint64_t m_number = 0;               // 0: does not speak
    std::uint8_t m_their_id = 0;
    int m_begun = 0;
    // Bytes of its messages that wait in the outbox.
    std::shared_ptr<std::atomic<std::size_t>> const m_unread = std::make_shared<std::atomic<std::size_t>>(0);
    // Messages of ours in libtorrent's send buffer: where each ends in the stream of bytes sent, and what it
    // counts.
    std::deque<std::pair<std::int64_t, std::size_t>> m_unsent;
    std::size_t m_unsent_bytes = 0;
};

}  // namespace silmaril
