#include "plugin.h"

#include <libtorrent/entry.hpp>
#include <libtorrent/peer_connection_handle.hpp>

#include "compat.h"
#include "hashes.h"
#include "talk.h"

namespace silmaril {

namespace {

// Requests at once of a peer whose rate says nothing because nothing was wanted: 1 MiB. A second later
// libtorrent goes by the rate again.
constexpr std::uint16_t first_requests = 64;

// All of it runs on libtorrent's network thread: it writes notes and returns.
class Peer final : public lt::peer_plugin {
public:
    Peer(std::shared_ptr<Outbox> outbox, std::shared_ptr<Talk> talk, std::uint64_t torrent,
         std::shared_ptr<PieceHashes> hashes, lt::peer_connection_handle const& connection)
        : m_speaker(std::move(talk), outbox, torrent, connection),
          m_outbox(std::move(outbox)),
          m_torrent(torrent),
          m_hashes(std::move(hashes)),
          m_connection(connection),
          m_endpoint(connection.remote()),
          m_outgoing(connection.is_outgoing()) {
        // An incoming connection is attached to its torrent after it was made.
        if (!m_outgoing) tell(Note::Kind::peer_socket);
    }

    void add_handshake(lt::entry& handshake) override {
        if (handshake.type() == lt::entry::dictionary_t) handshake.dict().erase("upload_only");
        Speaker::offer(handshake);
    }
    bool on_extension_handshake(lt::bdecode_node const& handshake) override {
        m_speaker.on_handshake(handshake);
        return true;
    }
    bool on_extended(int length, int id, lt::span<char const> so_far) override {
        return m_speaker.on_message(length, id, so_far);
    }
    void on_connected() override { tell(Note::Kind::peer_socket); }
    bool on_handshake(lt::span<char const>) override {
        m_greeted = true;
        tell(Note::Kind::peer_connected);
        return true;
    }
    void sent_interested() override { RequestQueue::open(m_connection, first_requests); }
    void tick() override {
        if (m_greeted) m_hashes->prompt(m_connection);
    }
    // True: libtorrent goes on as if the message had not come, and the peer stays unchoked.
    bool on_not_interested() override { return true; }
    void on_disconnect(lt::error_code const& reason) override {
        m_speaker.on_disconnect();
        if (!std::exchange(m_greeted, false)) return;
        m_hashes->forget_requests();
        tell(Note::Kind::peer_disconnected, reason.message());
    }

private:
    void tell(Note::Kind kind, std::string text = {}) {
        Note note{};
        note.kind = kind;
        note.torrent = m_torrent;
        note.text = std::move(text);
        note.endpoint = m_endpoint;
        note.outgoing = m_outgoing;
        m_outbox->push(std::move(note));
    }

    Speaker m_speaker;
    std::shared_ptr<Outbox> const m_outbox;
    std::uint64_t const m_torrent;
    std::shared_ptr<PieceHashes> const m_hashes;
    lt::peer_connection_handle const m_connection;  // weak
    lt::tcp::endpoint const m_endpoint;
    bool const m_outgoing;
    bool m_greeted = false;
};

class Plugin final : public lt::torrent_plugin {
public:
    Plugin(std::shared_ptr<Outbox> outbox, std::shared_ptr<Talk> talk, std::uint64_t torrent,
           lt::torrent_handle handle)
        : m_outbox(std::move(outbox)),
          m_talk(std::move(talk)),
          m_torrent(torrent),
          m_handle(std::move(handle)),
          m_hashes(std::make_shared<PieceHashes>(m_handle)) {
        m_talk->torrent_added(m_torrent, m_handle);
    }
    void tick() override { m_hashes->tick(); }
    ~Plugin() override { m_talk->torrent_gone(m_torrent); }

    std::shared_ptr<lt::peer_plugin> new_connection(lt::peer_connection_handle const& connection) override {
        if (connection.type() != lt::connection_type::bittorrent) return nullptr;
        return std::make_shared<Peer>(m_outbox, m_talk, m_torrent, m_hashes, connection);
    }

#if SILMARIL_REJECTED_BLOCK_HASHES_CORRUPT_MEMORY
    void on_piece_failed(lt::piece_index_t) override { m_hashes->forget_blocks(); }
#endif

private:
    std::shared_ptr<Outbox> const m_outbox;
    std::shared_ptr<Talk> const m_talk;
    std::uint64_t const m_torrent;
    lt::torrent_handle const m_handle;
    std::shared_ptr<PieceHashes> const m_hashes;
};

}  // namespace

std::shared_ptr<lt::torrent_plugin> make_plugin(std::shared_ptr<Outbox> outbox, std::shared_ptr<Talk> talk,
                                                std::uint64_t torrent, lt::torrent_handle handle) {
    return std::make_shared<Plugin>(std::move(outbox), std::move(talk), torrent, std::move(handle));
}

}  // namespace silmaril
