#include "talk.h"

#include <boost/asio/post.hpp>
#include <libtorrent/error_code.hpp>
#include <libtorrent/operations.hpp>
#include <libtorrent/peer_connection_interface.hpp>

#include "compat.h"

namespace silmaril {

namespace {

constexpr char const* extension_name = "silmaril_catalog";

// Our number of the extension. libtorrent's own extensions have the numbers 1 to 8.
constexpr std::uint8_t our_id = 20;
constexpr std::uint8_t extended = 20;  // BEP 10: the type of all extension messages
constexpr std::size_t header = 6;      // length, type, id

// The cost of a message in addition to its bytes, so that empty messages are not free.
constexpr std::size_t overhead = 256;

// Limits per peer: enough for the largest exchange that is requested in one message.
constexpr std::size_t max_unread = 4 * 1024 * 1024;
constexpr std::size_t max_unsent = 4 * 1024 * 1024;

// Limit of all peers together. The network thread handles all waiting messages in each loop.
constexpr std::size_t max_to_post = 64 * 1024 * 1024;

// How often one connection may enable the extension.
constexpr int max_begun = 8;

// Frames a message, without the peer's number of the extension, which only the network thread knows.
std::vector<char> framed(lt::span<char const> message) {
    auto const length = std::uint32_t(message.size() + 2);
    std::vector<char> frame;
    frame.reserve(header + std::size_t(message.size()));
    for (int shift = 24; shift >= 0; shift -= 8) frame.push_back(char(std::uint8_t(length >> shift)));
    frame.push_back(char(extended));
    frame.push_back(0);
    frame.insert(frame.end(), message.begin(), message.end());
    return frame;
}

}  // namespace

void Talk::open(lt::io_context& network) {
    std::lock_guard const lock(m_mutex);
    m_network = &network;
}

void Talk::close() {
    std::lock_guard const lock(m_mutex);
    m_network = nullptr;
}

bool Talk::post(std::function<void()> task) {
    std::lock_guard const lock(m_mutex);
    if (!m_network) return false;
    boost::asio::post(*m_network, std::move(task));
    return true;
}

bool Talk::send(std::shared_ptr<Talk> const& talk, std::uint64_t peer, lt::span<char const> message) {
    auto const counts = std::size_t(message.size()) + overhead;
    if (talk->m_to_post.fetch_add(counts) + counts > max_to_post) {
        talk->m_to_post.fetch_sub(counts);
        return false;
    }
    // Shared, because a std::function is copied.
    auto frame = std::make_shared<std::vector<char>>(framed(message));
    bool const posted = talk->post([talk, peer, counts, frame = std::move(frame)] {
        talk->m_to_post.fetch_sub(counts);
        auto const found = talk->m_speakers.find(peer);
        if (found != talk->m_speakers.end()) found->second->send(*frame);
    });
    if (!posted) talk->m_to_post.fetch_sub(counts);
    return true;
}

void Talk::disconnect(std::shared_ptr<Talk> const& talk, std::uint64_t peer, bool misbehaved) {
    talk->post([talk, peer, misbehaved] {
        auto const found = talk->m_speakers.find(peer);
        if (found != talk->m_speakers.end()) found->second->disconnect(misbehaved);
    });
}

std::uint64_t Talk::add(Speaker& speaker) {
    m_speakers.emplace(++m_last_peer, &speaker);
    return m_last_peer;
}

void Talk::remove(std::uint64_t peer) { m_speakers.erase(peer); }

void Talk::torrent_added(std::uint64_t torrent, lt::torrent_handle handle) {
    m_torrents.emplace(torrent, std::move(handle));
}

void Talk::torrent_gone(std::uint64_t torrent) { m_torrents.erase(torrent); }

lt::torrent_handle Talk::torrent(std::uint64_t torrent) const {
    auto const found = m_torrents.find(torrent);
    return found == m_torrents.end() ? lt::torrent_handle{} : found->second;
}

Speaker::Speaker(std::shared_ptr<Talk> talk, std::shared_ptr<Outbox> outbox, std::shared_ptr<Guard> guard,
                 std::uint64_t torrent, lt::peer_connection_handle connection)
    : m_talk(std::move(talk)),
      m_outbox(std::move(outbox)),
      m_guard(std::move(guard)),
      m_torrent(torrent),
      m_connection(std::move(connection)) {}

Speaker::~Speaker() { end(); }

void Speaker::offer(lt::entry& handshake) {
    if (handshake.type() == lt::entry::dictionary_t) handshake["m"][extension_name] = our_id;
}

void Speaker::on_handshake(lt::bdecode_node const& handshake) {
    // A later handshake contains only changes.
    auto const numbers = handshake.dict_find_dict("m");
    auto const number = numbers ? numbers.dict_find(extension_name) : lt::bdecode_node{};
    if (!number) return;
    auto const id = number.type() == lt::bdecode_node::int_t ? number.int_value() : 0;
    if (id < 1 || id > 255) {
        m_their_id = 0;
        end();
        return;
    }
    m_their_id = std::uint8_t(id);
    if (m_number != 0) return;
    if (++m_begun > max_begun) {
        disconnect(true);
        return;
    }
    auto callable = m_connection.remote();
    auto const port = handshake.dict_find_int_value("p", 0);
    if (!m_connection.is_outgoing() && port > 0 && port <= 65535) callable.port(std::uint16_t(port));
    begin(callable);
}

void Speaker::begin(lt::tcp::endpoint const& callable) {
    m_number = m_talk->add(*this);
    Note note{};
    note.kind = Note::Kind::peer_speaks;
    note.torrent = m_torrent;
    note.peer = m_number;
    note.endpoint = callable;
    note.outgoing = m_connection.is_outgoing();
    m_outbox->push(std::move(note));
}

void Speaker::end() {
    if (m_number == 0) return;
    m_talk->remove(m_number);
    Note note{};
    note.kind = Note::Kind::peer_left;
    note.torrent = m_torrent;
    note.peer = std::exchange(m_number, 0);
    m_outbox->push(std::move(note));
}

bool Speaker::on_message(int length, int id, lt::span<char const> so_far) {
    if (id != our_id) return false;
    if (length < 0 || std::size_t(length) > max_message) {
        disconnect(true);
        return true;
    }
    if (so_far.size() < length) return true;
    // Messages of a peer that has not enabled the extension are ignored.
    if (m_number == 0) return true;
    auto const counts = std::size_t(length) + overhead;
    if (m_unread->fetch_add(counts) + counts > max_unread) {
        m_unread->fetch_sub(counts);
        disconnect(true);
        return true;
    }
    Note note{};
    note.kind = Note::Kind::peer_message;
    note.torrent = m_torrent;
    note.peer = m_number;
    note.data.assign(so_far.begin(), so_far.end());
    note.unread = m_unread;
    note.counts = counts;
    m_outbox->push(std::move(note));
    return true;
}

void Speaker::on_disconnect() { end(); }

void Speaker::send(std::vector<char>& frame) {
    auto const connection = m_connection.native_handle();
    if (!connection || connection->is_disconnecting() || m_their_id == 0) return;
    auto const sent = bytes_sent(*connection);
    while (!m_unsent.empty() && m_unsent.front().first <= sent) {
        m_unsent_bytes -= m_unsent.front().second;
        m_unsent.pop_front();
    }
    auto const counts = frame.size() + overhead;
    if (m_unsent_bytes + counts > max_unsent) {
        disconnect(true);
        return;
    }
    frame[header - 1] = char(m_their_id);
    m_unsent.emplace_back(sent + connection->send_buffer_size() + std::int64_t(frame.size()), counts);
    m_unsent_bytes += counts;
    m_connection.send_buffer(frame.data(), int(frame.size()));
}

void Speaker::disconnect(bool misbehaved) {
    if (!m_connection.native_handle()) return;
    if (misbehaved)
        m_guard->remember({m_connection.remote(), m_connection.pid(), m_connection.is_outgoing()},
                          Clock::now());
    m_connection.disconnect(
        misbehaved ? lt::errors::make_error_code(lt::errors::invalid_message)
                   : lt::error_code(boost::asio::error::operation_aborted),
        lt::operation_t::bittorrent,
        misbehaved ? lt::peer_connection_interface::peer_error : lt::peer_connection_interface::normal);
}

}  // namespace silmaril
