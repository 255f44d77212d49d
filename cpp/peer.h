// The libtorrent plugin of one connection. Runs on libtorrent's network thread, pushes notes and never waits.
#pragma once

#include <cstdint>
#include <libtorrent/extensions.hpp>
#include <libtorrent/peer_connection_handle.hpp>
#include <memory>
#include <string>
#include <vector>

#include "blame.h"
#include "claims.h"
#include "gate.h"
#include "hash_answers.h"
#include "hashes.h"
#include "liveness.h"
#include "metadata_link.h"
#include "meter.h"
#include "offer_link.h"
#include "plugin.h"
#include "slots.h"
#include "source.h"
#include "talk.h"
#include "together.h"
#include "traffic.h"

namespace silmaril {

class Peer final : public lt::peer_plugin, public Slot {
public:
    // The name by which this plugin of a connection is found.
    static constexpr char name[] = "silmaril";

    Peer(PluginParts const& parts, std::shared_ptr<PieceHashes> hashes, std::shared_ptr<Slots> slots,
         std::shared_ptr<MetadataFetch> metadata, std::shared_ptr<Blame> blame,
         std::shared_ptr<Together> together, lt::peer_connection_handle const& connection);
    ~Peer() override { m_slots->remove(this); }

    lt::string_view type() const override { return name; }

    void add_handshake(lt::entry& handshake) override;
    bool on_extension_handshake(lt::bdecode_node const& handshake) override;
    // See OfferLink::send.
    void offer(std::vector<std::vector<char>> const& messages) { m_offers.send(messages); }
    bool on_extended(int length, int id, lt::span<char const> so_far) override;
    bool on_handshake(lt::span<char const> reserved) override;
    verdict on_whole_message(int type, lt::span<char const> body) override;
    bool on_keepalive() override;
    void sent_request(lt::peer_request const& request) override;
    void sent_hash_request(lt::hash_request const& request) override;
    bool on_have_none() override;
    bool on_bitfield(lt::bitfield const&) override;
    bool on_have(lt::piece_index_t piece) override;
    bool choose_requests(std::vector<lt::piece_block>& blocks) override;
    void on_piece_pass(lt::piece_index_t) override;
    void sent_piece(lt::peer_request const& block) override;
    bool serves_part(lt::peer_request const& part) const override { return m_offers.serves(part); }
    bool on_reject(lt::peer_request const& request) override;
    bool on_request(lt::peer_request const&) override;
    bool on_cancel(lt::peer_request const& block) override;
    void sent_interested() override;
    bool on_unchoke() override;
    // Requests hashes of blocks. False if the peer has left too many such requests unanswered.
    bool ask(HashRange const& range);
    void tick() override;
    // True: libtorrent ignores the message, and the peer stays unchoked.
    bool on_not_interested() override { return true; }
    void on_disconnect(lt::error_code const& reason) override;

    // Only valid until the next peer can leave.
    Source source();
    Fellow fellow() const;
    bool is_silent_seed() const { return m_liveness.is_silent_seed(); }

    // See send_withdrawn in plugin.h.
    void send_withdrawn(lt::peer_connection& peer, std::vector<lt::piece_index_t> const& pieces) const;

    // Null when the connection has ended.
    std::shared_ptr<lt::peer_connection> connection() const { return m_connection.native_handle(); }
    lt::address group() const override { return group_address(m_endpoint.address()); }
    bool is_exempt() const override { return m_parts.guard->is_exempt(m_endpoint.address()); }
    bool is_named() const override { return m_parts.guard->is_named(m_endpoint.address()); }
    bool is_outgoing() const override { return m_outgoing; }
    bool is_pending() const override { return m_outgoing && !m_greeted; }
    bool is_proven() const { return m_gate.is_proven(); }
    Worth worth() const override;
    Clock::time_point opened() const override { return m_opened; }
    bool is_over() const override;

private:
    void report(Note::Kind kind, std::string text = {});
    // BEP 3: the fields of REQUEST are the piece, the offset in it and the length.
    void note_request(lt::span<char const> body) const;
    void end();
    Rumours::Called called() const { return {m_parts.torrent, m_endpoint}; }
    Remote remote() const { return {m_endpoint, m_connection.pid(), m_outgoing}; }
    // The handshake with a peer that this node called is complete.
    void make_room();
    // Closes the connection, and refuses the peer for a while.
    void end_for_good();
    // Whose turn it is when this peer requests hashes.
    Turns::Sender sender() const;

    PluginParts const m_parts;
    Speaker m_speaker;
    MetadataLink m_metadata;
    Gate m_gate;
    Meter m_meter;
    std::shared_ptr<PieceHashes> const m_hashes;
    std::shared_ptr<Slots> const m_slots;
    std::shared_ptr<Blame> const m_blame;
    std::shared_ptr<Together> const m_together;
    std::shared_ptr<Pace> const m_pace = std::make_shared<Pace>();
    std::shared_ptr<Claims> const m_claims = std::make_shared<Claims>();
    Liveness m_liveness;
    HashAnswers m_answers;
    OfferLink m_offers;
    std::shared_ptr<Group> const m_group;  // null if no group limit applies
    // The peer's numbers of the extensions; 0 if it does not support them.
    std::uint8_t m_claims_id = 0;
    std::uint8_t m_dont_have = 0;             // lt_donthave
    lt::peer_connection_handle m_connection;  // weak
    lt::tcp::endpoint const m_endpoint;
    bool const m_outgoing;
    Clock::time_point const m_opened = Clock::now();
    bool m_greeted = false;
    bool m_fast = false;  // supports BEP 6
    Traffic m_traffic;
    Clock::time_point m_proven_at;
};

// The slots of a torrent for a newcomer from this address.
Room room_of(lt::torrent const& torrent, Guard& guard, lt::address const& newcomer);

// Closes a connection to make room. Posted, because libtorrent must not close a connection while it adds
// another one.
void end_soon(Talk& talk, std::weak_ptr<lt::peer_connection> connection);

}  // namespace silmaril
