#include "plugin.h"

#include <libtorrent/torrent.hpp>
#include <stdexcept>

#include "blame.h"
#include "hashes.h"
#include "metadata_link.h"
#include "offers.h"
#include "peer.h"
#include "slots.h"
#include "soon.h"
#include "together.h"

namespace silmaril {

namespace {

class Plugin final : public lt::torrent_plugin {
public:
    Plugin(PluginParts parts, lt::torrent_handle handle)
        : m_parts(std::move(parts)),
          m_handle(std::move(handle)),
          m_hashes(std::make_shared<PieceHashes>(m_handle, m_parts.proof)),
          m_metadata(m_parts.wants_metadata ? fetch_metadata(m_handle) : nullptr) {
        m_parts.talk->torrent_added(m_parts.torrent, m_handle);
        if (m_parts.proof)
            m_parts.proof->cleared = [blame = std::weak_ptr<Blame>(m_blame)] {
                if (auto const left = blame.lock()) left->piece_cleared();
            };
        if (m_parts.parts) {
            auto const left = [this](int piece) { return holds_back(lt::piece_index_t(piece), {}); };
            m_parts.parts->open(
                m_handle, [slots = m_slots] { return sources(*slots); }, left);
        }
        if (m_parts.proof) {
            m_parts.proof->blocks.offered_more = [this] {
                auto const torrent = m_handle.native_handle();
                if (torrent) m_offers->need(torrent->session().get_context());
            };
        }
    }
    void tick() override {
        m_hashes->tick();
        if (m_metadata) m_metadata->tick(Clock::now());
        m_blame->tick();
        if (m_parts.parts) m_parts.parts->tick();
        m_together->tick();
        offer_changes();
        report_silent_seeds();
    }
    void on_piece_pass(lt::piece_index_t piece) override {
        m_together->passed(piece);
        int const number = static_cast<int>(piece);
        if (m_parts.proof && m_parts.proof->proved(number)) m_parts.proof->blocks.complete(number);
    }
    bool holds_back(lt::piece_index_t piece, lt::time_point) override {
        return !m_blame->is_active() && m_together->holds_back(piece);
    }
    void on_piece_failed(lt::piece_index_t piece) override { m_blame->piece_failed(piece); }
    ~Plugin() override {
        if (m_parts.parts) m_parts.parts->close();
        if (m_parts.proof) m_parts.proof->blocks.offered_more = nullptr;
        m_together->close();
        m_parts.talk->torrent_gone(m_parts.torrent);
    }

    std::shared_ptr<lt::peer_plugin> new_connection(lt::peer_connection_handle const& connection) override {
        if (connection.type() != lt::connection_type::bittorrent) return nullptr;
        // libtorrent catches the exception and closes the connection before it has answered the handshake. So
        // a stranger cannot distinguish a withheld torrent from an absent one.
        if (m_parts.visibility->withheld && !connection.is_outgoing())
            throw std::runtime_error("the torrent is withheld");
        auto peer =
            std::make_shared<Peer>(m_parts, m_hashes, m_slots, m_metadata, m_blame, m_together, connection);
        auto const torrent = m_handle.native_handle();
        if (torrent && !connection.is_outgoing()) {
            auto const room = room_of(*torrent, *m_parts.guard, connection.remote().address());
            auto const* const replaced = m_slots->admit(peer.get(), room, Clock::now());
            if (replaced) end_soon(*m_parts.talk, static_cast<Peer const*>(replaced)->connection());
        }
        return peer;
    }

    lt::peer_connection* choose_replaced(lt::peer_connection_handle const& newcomer) override {
        auto const connection = newcomer.native_handle();
        auto const torrent = m_handle.native_handle();
        auto* const slot = m_slots->find(
            [&](Slot const* one) { return static_cast<Peer const*>(one)->connection() == connection; });
        if (!slot || !torrent) return nullptr;
        auto const room = room_of(*torrent, *m_parts.guard, newcomer.remote().address());
        auto const* const replaced = m_slots->replaced_by(slot, room, Clock::now());
        return replaced ? static_cast<Peer const*>(replaced)->connection().get() : nullptr;
    }

    // A host that only strangers have named is called seldom, and calls to such hosts get at most half of the
    // slots. Hosts of the local network announce themselves.
    bool may_call(lt::torrent_peer const& peer) override {
        if (peer.has_answered || (peer.peer_source() & lt::peer_info::lsd)) return true;
        auto& guard = *m_parts.guard;
        if (guard.is_exempt(peer.address())) return true;
        auto const torrent = m_handle.native_handle();
        int pending = 0;
        m_slots->each([&pending](Slot const* slot) {
            pending += slot->is_pending() && !slot->is_exempt() && !slot->is_over();
        });
        if (torrent && pending >= std::max(1, torrent->max_connections() / 2)) return false;
        return guard.rumours().call({m_parts.torrent, peer.ip()}, Clock::now());
    }

private:
    void report_silent_seeds() {
        int silent = 0;
        m_slots->each(
            [&silent](Slot const* slot) { silent += static_cast<Peer const*>(slot)->is_silent_seed(); });
        if (std::exchange(m_silent_seeds, silent) == silent) return;
        Note note{};
        note.kind = Note::Kind::silent_seeds;
        note.torrent = m_parts.torrent;
        note.seeds = silent;
        m_parts.outbox->push(std::move(note));
    }

    // Sends to the peers what has changed in the granules that this node has.
    void offer_changes() {
        if (!m_parts.proof) return;
        auto const changed = m_parts.proof->blocks.changed_offers();
        if (changed.empty()) return;
        auto const& proof = *m_parts.proof;
        auto const messages = Offers::messages(changed, proof.blocks, proof.piece_length());
        m_slots->each(
            [&](Slot const* slot) { const_cast<Peer*>(static_cast<Peer const*>(slot))->offer(messages); });
    }

    // Only valid until the next peer can leave.
    static std::vector<Source> sources(Slots const& slots) {
        std::vector<Source> found;
        slots.each([&](Slot const* slot) {
            auto source = const_cast<Peer*>(static_cast<Peer const*>(slot))->source();
            if (source.connection) found.push_back(std::move(source));
        });
        return found;
    }

    // Proven peers come first, because liars rarely send a correct piece.
    static std::vector<std::shared_ptr<lt::peer_connection>> connections(Slots const& slots) {
        std::vector<std::shared_ptr<lt::peer_connection>> proven;
        std::vector<std::shared_ptr<lt::peer_connection>> unproven;
        slots.each([&](Slot const* slot) {
            auto const* const peer = static_cast<Peer const*>(slot);
            if (auto connection = peer->connection())
                (peer->is_proven() ? proven : unproven).push_back(std::move(connection));
        });
        proven.insert(proven.end(), unproven.begin(), unproven.end());
        return proven;
    }

    static std::vector<Fellow> fellows(Slots const& slots) {
        std::vector<Fellow> found;
        slots.each([&](Slot const* slot) {
            auto fellow = static_cast<Peer const*>(slot)->fellow();
            if (fellow.peer) found.push_back(std::move(fellow));
        });
        return found;
    }

    PluginParts const m_parts;
    lt::torrent_handle const m_handle;
    std::shared_ptr<PieceHashes> const m_hashes;
    std::shared_ptr<MetadataFetch> const m_metadata;  // null if none is wanted
    std::shared_ptr<Slots> const m_slots = std::make_shared<Slots>();
    std::shared_ptr<Blame> const m_blame =
        std::make_shared<Blame>(m_handle, [slots = m_slots] { return connections(*slots); });
    std::shared_ptr<Together> const m_together = std::make_shared<Together>(
        m_handle, [slots = m_slots] { return fellows(*slots); },
        [torrent = m_parts.torrent, outbox = m_parts.outbox](int readers) {
            Note note{};
            note.kind = Note::Kind::readers;
            note.torrent = torrent;
            note.count = readers;
            outbox->push(std::move(note));
        },
        [handle = m_handle, parts = m_parts.parts](lt::piece_index_t piece, lt::peer_connection const& peer) {
            auto const torrent = handle.native_handle();
            if (torrent && parts) parts->pass_on(*torrent, static_cast<int>(piece), &peer);
        });
    std::shared_ptr<Soon> const m_offers =
        std::make_shared<Soon>([this] { offer_changes(); }, Offers::collected_for);
    int m_silent_seeds = 0;  // as last reported
};

}  // namespace

void send_withdrawn(lt::peer_connection& peer, std::vector<lt::piece_index_t> const& pieces) {
    auto const* const plugin = peer.find_plugin(Peer::name);
    if (plugin) static_cast<Peer const*>(plugin)->send_withdrawn(peer, pieces);
}

std::shared_ptr<lt::torrent_plugin> make_plugin(PluginParts parts, lt::torrent_handle handle) {
    return std::make_shared<Plugin>(std::move(parts), std::move(handle));
}

}  // namespace silmaril
