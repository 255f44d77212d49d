#include "peer.h"

#include <array>
#include <libtorrent/entry.hpp>
#include <libtorrent/torrent.hpp>
#include <utility>

#include "compat.h"
#include "flow.h"

namespace silmaril {

namespace {

// The first requests to a peer that was idle and so has no known rate: 1 MiB. A second later libtorrent
// computes the number from the rate again.
constexpr std::uint16_t first_requests = 64;

// A peer's claims count for so long after it took part in sending a correct piece.
constexpr auto claims_count_for = std::chrono::seconds(60);

// How long verified data counts as delivered lately.
constexpr auto active_for = std::chrono::seconds(60);

// Whether a message requests something that a withheld torrent does not serve. `interested` counts, because
// only an interested peer is unchoked.
bool asks(int type, lt::span<char const> body) {
    switch (static_cast<MessageType>(type)) {
        case MessageType::interested:
        case MessageType::request:
        case MessageType::hash_request:
            return true;
        case MessageType::extended:
            // The torrent has its metadata, so it expects no message about it.
            return !body.empty() && body[0] == metadata_id;
        default:
            return false;
    }
}

Load load_of(lt::peer_connection_handle const& peer) {
    auto const connection = peer.native_handle();
    if (!connection) return {};
    return {bytes_sent(*connection), connection->send_buffer_size()};
}

// Whether a call failed because this host has no network.
bool was_not_sent(lt::error_code const& reason) {
    return reason == boost::asio::error::network_unreachable || reason == boost::asio::error::network_down;
}

}  // namespace

Room room_of(lt::torrent const& torrent, Guard& guard, lt::address const& newcomer) {
    return {torrent.max_connections(), !torrent.is_seed(), guard.offences(newcomer, Clock::now())};
}

void end_soon(Talk& talk, std::weak_ptr<lt::peer_connection> connection) {
    talk.post([connection = std::move(connection)] {
        if (auto const open = connection.lock())
            open->disconnect(lt::errors::make_error_code(lt::errors::too_many_connections),
                             lt::operation_t::bittorrent);
    });
}

Peer::Peer(PluginParts const& parts, std::shared_ptr<PieceHashes> hashes, std::shared_ptr<Slots> slots,
           std::shared_ptr<MetadataFetch> metadata, std::shared_ptr<Blame> blame,
           std::shared_ptr<Together> together, lt::peer_connection_handle const& connection)
    : m_parts(parts),
      m_speaker(parts.talk, parts.outbox, parts.guard, parts.torrent, connection),
      m_metadata(std::move(metadata), connection, [this](bool wrong) { wrong ? end_for_good() : end(); }),
      m_gate(parts.guard, parts.proof, connection.remote().address()),
      m_meter(parts.guard, parts.spare, parts.proof.get(), connection.remote().address()),
      m_hashes(std::move(hashes)),
      m_slots(std::move(slots)),
      m_blame(std::move(blame)),
      m_together(std::move(together)),
      m_liveness(connection),
      m_answers(parts.proof, parts.turns, connection),
      m_offers(parts.proof, parts.visibility, connection),
      m_group(parts.guard->group_of(connection.remote().address())),
      m_connection(connection),
      m_endpoint(connection.remote()),
      m_outgoing(connection.is_outgoing()) {
    m_slots->add(this);
}

void Peer::add_handshake(lt::entry& handshake) {
    if (handshake.type() == lt::entry::dictionary_t) {
        handshake.dict().erase("upload_only");
        if (m_parts.visibility->hides_port()) handshake.dict().erase("p");
    }
    Speaker::offer(handshake);
    m_metadata.offer(handshake);
    if (handshake.type() == lt::entry::dictionary_t) {
        handshake["m"][Claims::name] = Claims::our_id;
        handshake["m"][Offers::name] = Offers::our_id;
    }
}

bool Peer::on_extension_handshake(lt::bdecode_node const& handshake) {
    m_speaker.on_handshake(handshake);
    m_metadata.on_handshake(handshake);
    auto const messages =
        handshake.type() == lt::bdecode_node::dict_t ? handshake.dict_find_dict("m") : lt::bdecode_node();
    auto const number_of = [&messages](char const* name) {
        auto const number = messages ? messages.dict_find_int_value(name) : 0;
        return number > 0 && number < 256 ? std::uint8_t(number) : std::uint8_t(0);
    };
    m_dont_have = number_of("lt_donthave");
    m_claims_id = number_of(Claims::name);
    auto const connection = this->connection();
    if (connection && m_claims_id != 0) m_together->greet(*connection, m_claims_id);
    m_offers.on_handshake(number_of(Offers::name));
    return true;
}

bool Peer::on_extended(int length, int id, lt::span<char const> so_far) {
    if (id == Offers::our_id) {
        if (so_far.size() != length || !m_offers.on_message(so_far)) return true;
        m_pace->announced(Clock::now());
        if (m_parts.parts) m_parts.parts->peer_ready();
        m_together->turn_soon();
        return true;
    }
    if (id == Claims::our_id) {
        if (so_far.size() == length) m_together->claimed(*m_claims, so_far);
        return true;
    }
    return m_metadata.on_message(length, id, so_far) || m_speaker.on_message(length, id, so_far);
}

bool Peer::on_handshake(lt::span<char const> reserved) {
    m_fast = reserved.size() == 8 && (reserved[7] & 0x04) != 0;
    auto const now = Clock::now();
    bool const waits = !m_outgoing && m_parts.guard->must_wait(m_endpoint.address(), now);
    if (waits || m_parts.guard->remembers(remote(), now)) {
        end();
        return true;
    }
    m_greeted = true;
    // A peer that called has another port than the one at which it listens.
    if (m_outgoing)
        m_parts.guard->rumours().answered(called(), now);
    else
        m_parts.guard->rumours().forget(called());
    if (auto const connection = this->connection()) m_meter.greeted(*connection, now);
    if (m_outgoing) make_room();
    report(Note::Kind::peer_connected);
    return true;
}

lt::peer_plugin::verdict Peer::on_whole_message(int type, lt::span<char const> body) {
    m_liveness.heard();
    if (m_parts.visibility->withheld && asks(type, body)) return verdict::drop;
    if (static_cast<MessageType>(type) == MessageType::request) note_request(body);
    std::vector<int> finished;
    auto const judged = m_gate.check(type, body, load_of(m_connection), Clock::now(), finished);
    for (int const piece : finished) {
        Note note{};
        note.kind = Note::Kind::piece_proved;
        note.torrent = m_parts.torrent;
        note.piece = piece;
        m_parts.proof->blocks.unless_barred(piece, [&] { m_parts.outbox->push(std::move(note)); });
    }
    if (auto const& answer = m_gate.answer(); answer && m_parts.parts)
        m_parts.parts->answered(connection().get(), answer->range, answer->proved);
    switch (judged) {
        case Gate::Verdict::pass:
            if (!m_gate.wants_blocks() || !m_parts.proof->hashes_of) return verdict::pass;
            if (m_answers.send(sender(), body) || m_answers.reject_later(body)) return verdict::drop;
            break;
        case Gate::Verdict::drop:
            return verdict::drop;
        case Gate::Verdict::reject:
            m_answers.reject(body);
            return verdict::drop;
        case Gate::Verdict::reject_later:
            if (m_answers.reject_later(body)) return verdict::drop;
            break;
        case Gate::Verdict::disconnect:
            break;
    }
    m_parts.guard->remember(remote(), Clock::now());
    return verdict::disconnect;
}

bool Peer::on_keepalive() {
    if (m_gate.check_keepalive(Clock::now()) == Gate::Verdict::pass) return true;
    m_parts.guard->remember(remote(), Clock::now());
    return false;
}

void Peer::sent_request(lt::peer_request const& request) {
    m_gate.requested_block(static_cast<int>(request.piece), request.start);
}

void Peer::sent_hash_request(lt::hash_request const& request) {
    auto const connection = m_connection.native_handle();
    auto const torrent = connection ? connection->associated_torrent().lock() : nullptr;
    if (!torrent) return;
    auto const root = torrent->torrent_file().files().root(request.file);
    m_gate.requested({root, request.base, request.index, request.count, request.proof_layers});
}

bool Peer::on_have_none() {
    m_pace->announced(Clock::now());
    return false;
}

bool Peer::on_bitfield(lt::bitfield const&) {
    m_pace->announced(Clock::now());
    return false;
}

bool Peer::on_have(lt::piece_index_t piece) {
    m_pace->announced(Clock::now());
    m_claims->kept(std::uint32_t(static_cast<int>(piece)), Clock::now());
    m_offers.has(static_cast<int>(piece));
    m_together->turn_soon();
    return false;
}

bool Peer::choose_requests(std::vector<lt::piece_block>& blocks) {
    auto const connection = this->connection();
    return connection && !m_blame->is_active() &&
           m_together->choose(*connection, *m_pace, *m_offers.offers(), blocks);
}

void Peer::on_piece_pass(lt::piece_index_t) {
    m_gate.proven();
    m_proven_at = Clock::now();
}

void Peer::sent_piece(lt::peer_request const& block) {
    if (auto const connection = this->connection()) m_meter.sent(*connection, block);
}

bool Peer::on_reject(lt::peer_request const& request) {
    m_offers.rejected(request);
    return false;
}

bool Peer::on_request(lt::peer_request const&) {
    if (auto const connection = this->connection()) m_meter.requested(*connection);
    return false;
}

bool Peer::on_cancel(lt::peer_request const& block) {
    if (auto const connection = this->connection()) m_meter.cancelled(*connection, block);
    return false;
}

void Peer::sent_interested() {
    RequestQueue::open(m_connection, first_requests);
    if (m_parts.parts) m_parts.parts->peer_ready();
}

bool Peer::on_unchoke() {
    if (m_parts.parts) m_parts.parts->peer_ready();
    return false;
}

bool Peer::ask(HashRange const& range) {
    if (!m_greeted || !m_gate.may_ask()) return false;
    m_gate.requested_blocks(range);
    send_range(m_connection, MessageType::hash_request, range, {});
    return true;
}

void Peer::tick() {
    if (!m_greeted) return;
    if (auto const connection = this->connection()) {
        auto const& statistics = connection->statistics();
        auto const taken = statistics.total_payload_upload() - unacknowledged(*connection);
        m_traffic.tick(statistics.total_payload_download(), taken, Clock::now());
        m_pace->tick(flow_of(*connection), round_trip(*connection), Clock::now());
        m_meter.tick(*connection, Clock::now());
    }
    if (!m_gate.keep(load_of(m_connection), Clock::now())) {
        end();
        return;
    }
    m_answers.tick();
    if (!m_liveness.tick()) return;
    if (auto const piece = m_hashes->prompt(m_connection))
        m_gate.requested_block(static_cast<int>(*piece), 0);
    // libtorrent unchokes a peer directly after the handshake, before it is interested. If it stayed
    // unchoked, the peer would wait for the blocks that it requests.
    if (m_parts.visibility->withheld) m_connection.choke_this_peer();
}

void Peer::on_disconnect(lt::error_code const& reason) {
    m_speaker.on_disconnect();
    m_metadata.on_disconnect();
    // The peer sent wrong data.
    if (reason == lt::errors::make_error_code(lt::errors::too_many_corrupt_pieces)) {
        m_parts.guard->remember(remote(), Clock::now());
        m_parts.guard->lied(m_endpoint.address(), Clock::now());
    }
    if (m_outgoing && was_not_sent(reason)) m_parts.guard->rumours().forget(called());
    if (!std::exchange(m_greeted, false)) return;
    m_hashes->forget_requests();
    m_blame->peer_gone();
    if (m_parts.parts) m_parts.parts->peer_gone(connection().get());
    report(Note::Kind::peer_disconnected, reason.message());
}

Source Peer::source() {
    return {connection(), [this](HashRange const& range) { return ask(range); }, m_offers.offers()};
}

Fellow Peer::fellow() const {
    bool const counts = is_proven() && Clock::now() - m_proven_at < claims_count_for;
    return {connection(), m_pace, m_claims, m_claims_id, m_group, counts};
}

void Peer::send_withdrawn(lt::peer_connection& peer, std::vector<lt::piece_index_t> const& pieces) const {
    if (peer.is_disconnecting() || !m_greeted) return;
    if (!m_fast) {
        peer.disconnect(lt::errors::make_error_code(lt::errors::optimistic_disconnect),
                        lt::operation_t::bittorrent);
        return;
    }
    auto const requests = peer.upload_queue();
    for (auto const piece : pieces) {
        auto const number = static_cast<std::uint32_t>(static_cast<int>(piece));
        std::array<char, 10> const message{0,
                                           0,
                                           0,
                                           6,
                                           char(MessageType::extended),
                                           char(m_dont_have),
                                           char(number >> 24),
                                           char(number >> 16),
                                           char(number >> 8),
                                           char(number)};
        if (m_dont_have != 0) peer.send_buffer(message);
        for (auto const& request : requests)
            if (request.piece == piece) peer.incoming_cancel(request);  // rejects it
    }
}

Worth Peer::worth() const {
    if (is_proven()) return Clock::now() - m_proven_at < active_for ? Worth::active : Worth::verified;
    if (m_traffic.received()) return Worth::sends;
    if (m_traffic.sent() && !m_meter.is_limited()) return Worth::served;
    auto const connection = this->connection();
    return connection && has_transferred(*connection) ? Worth::idle : Worth::silent;
}

bool Peer::is_over() const {
    auto const connection = this->connection();
    return !connection || connection->is_disconnecting();
}

void Peer::report(Note::Kind kind, std::string text) {
    Note note{};
    note.kind = kind;
    note.torrent = m_parts.torrent;
    note.text = std::move(text);
    note.endpoint = m_endpoint;
    note.outgoing = m_outgoing;
    m_parts.outbox->push(std::move(note));
}

void Peer::note_request(lt::span<char const> body) const {
    auto const& proof = m_parts.proof;
    if (!proof || body.size() != 12) return;
    auto const number = [&](std::ptrdiff_t at) {
        std::uint32_t value = 0;
        for (int i = 0; i < 4; ++i) value = value << 8 | std::uint8_t(body[at + i]);
        return std::int64_t(value);
    };
    auto const piece = number(0);
    auto const start = number(4);
    proof->asked(m_endpoint.address(), piece, start, number(8));
}

void Peer::end() {
    m_connection.disconnect(lt::errors::make_error_code(lt::errors::invalid_message),
                            lt::operation_t::bittorrent, lt::peer_connection_interface::peer_error);
}

void Peer::make_room() {
    auto const connection = this->connection();
    auto const torrent = connection ? connection->associated_torrent().lock() : nullptr;
    if (!torrent) return;
    auto const room = room_of(*torrent, *m_parts.guard, m_endpoint.address());
    auto const* const replaced = m_slots->admit(this, room, Clock::now());
    if (replaced) end_soon(*m_parts.talk, static_cast<Peer const*>(replaced)->connection());
}

void Peer::end_for_good() {
    m_parts.guard->remember(remote(), Clock::now());
    end();
}

Turns::Sender Peer::sender() const {
    return is_exempt() ? Turns::Sender(m_endpoint) : Turns::Sender(group(), 0);
}

}  // namespace silmaril
