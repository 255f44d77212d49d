#include "plugin.h"

#include <libtorrent/entry.hpp>
#include <libtorrent/peer_connection_handle.hpp>
#include <stdexcept>

#include "compat.h"
#include "hashes.h"
#include "talk.h"

namespace silmaril {

namespace {

// Requests at once of a peer whose rate says nothing because nothing was wanted: 1 MiB. A second later
// libtorrent goes by the rate again.
constexpr std::uint16_t first_requests = 64;

// The number that libtorrent gives the extension `ut_metadata` (BEP 9).
constexpr int metadata_id = 2;

// All of it runs on libtorrent's network thread: it writes notes and returns.
class Peer final : public lt::peer_plugin {
public:
    Peer(std::shared_ptr<Outbox> outbox, std::shared_ptr<Talk> talk, std::uint64_t torrent,
         std::shared_ptr<PieceHashes> hashes, std::shared_ptr<Visibility const> visibility,
         lt::peer_connection_handle const& connection)
        : m_speaker(std::move(talk), outbox, torrent, connection),
          m_outbox(std::move(outbox)),
          m_torrent(torrent),
          m_hashes(std::move(hashes)),
          m_visibility(std::move(visibility)),
          m_connection(connection),
          m_endpoint(connection.remote()),
          m_outgoing(connection.is_outgoing()) {
        // An incoming connection is attached to its torrent after it was made.
        if (!m_outgoing) tell(Note::Kind::peer_socket);
    }

    void add_handshake(lt::entry& handshake) override {
        if (handshake.type() == lt::entry::dictionary_t) {
            handshake.dict().erase("upload_only");
            if (m_visibility->hides_port()) handshake.dict().erase("p");
        }
        Speaker::offer(handshake);
    }
    bool on_extension_handshake(lt::bdecode_node const& handshake) override {
        m_speaker.on_handshake(handshake);
        return true;
    }
    bool on_extended(int length, int id, lt::span<char const> so_far) override {
        // The metadata of a withheld torrent is here already: no message about it is awaited. This plugin is
        // asked before libtorrent's own.
        if (id == metadata_id && m_visibility->withheld) return true;
        return m_speaker.on_message(length, id, so_far);
    }
    // True: libtorrent continues as if the message had not come. A peer that is not interested is not
    // unchoked again.
    bool on_interested() override { return m_visibility->withheld; }
    bool on_request(lt::peer_request const&) override { return m_visibility->withheld; }
    void on_connected() override { tell(Note::Kind::peer_socket); }
    bool on_handshake(lt::span<char const>) override {
        m_greeted = true;
        tell(Note::Kind::peer_connected);
        return true;
    }
    void sent_interested() override { RequestQueue::open(m_connection, first_requests); }
    void tick() override {
        if (!m_greeted) return;
        m_hashes->prompt(m_connection);
        // libtorrent unchokes a peer right after the handshake, before it is interested. A peer that stays
        // unchoked would wait for the blocks that it asks for.
        if (m_visibility->withheld) lt::peer_connection_handle(m_connection).choke_this_peer();
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
    std::shared_ptr<Visibility const> const m_visibility;
    lt::peer_connection_handle const m_connection;  // weak
    lt::tcp::endpoint const m_endpoint;
    bool const m_outgoing;
    bool m_greeted = false;
};

class Plugin final : public lt::torrent_plugin {
public:
    Plugin(std::shared_ptr<Outbox> outbox, std::shared_ptr<Talk> talk, std::uint64_t torrent,
           lt::torrent_handle handle, std::shared_ptr<Visibility const> visibility)
        : m_outbox(std::move(outbox)),
          m_talk(std::move(talk)),
          m_torrent(torrent),
          m_handle(std::move(handle)),
          m_visibility(std::move(visibility)),
          m_hashes(std::make_shared<PieceHashes>(m_handle)) {
        m_talk->torrent_added(m_torrent, m_handle);
    }
    void tick() override { m_hashes->tick(); }
    ~Plugin() override { m_talk->torrent_gone(m_torrent); }

    std::shared_ptr<lt::peer_plugin> new_connection(lt::peer_connection_handle const& connection) override {
        if (connection.type() != lt::connection_type::bittorrent) return nullptr;
        // libtorrent catches it and closes the connection before it has answered the handshake: a stranger
        // cannot tell a withheld torrent from one that is not here.
        if (m_visibility->withheld && !connection.is_outgoing())
            throw std::runtime_error("the torrent is withheld");
        return std::make_shared<Peer>(m_outbox, m_talk, m_torrent, m_hashes, m_visibility, connection);
    }

#if SILMARIL_REJECTED_BLOCK_HASHES_CORRUPT_MEMORY
    void on_piece_failed(lt::piece_index_t) override { m_hashes->forget_blocks(); }
#endif

private:
    std::shared_ptr<Outbox> const m_outbox;
    std::shared_ptr<Talk> const m_talk;
    std::uint64_t const m_torrent;
    lt::torrent_handle const m_handle;
    std::shared_ptr<Visibility const> const m_visibility;
    std::shared_ptr<PieceHashes> const m_hashes;
};

}  // namespace

std::shared_ptr<lt::torrent_plugin> make_plugin(std::shared_ptr<Outbox> outbox, std::shared_ptr<Talk> talk,
                                                std::uint64_t torrent, lt::torrent_handle handle,
                                                std::shared_ptr<Visibility const> visibility) {
    return std::make_shared<Plugin>(std::move(outbox), std::move(talk), torrent, std::move(handle),
                                    std::move(visibility));
}

}  // namespace silmaril
