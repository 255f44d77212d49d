#include "plugin.h"

#include <array>
#include <cerrno>
#include <libtorrent/entry.hpp>
#include <libtorrent/hash_picker.hpp>
#include <libtorrent/peer_connection_handle.hpp>
#include <libtorrent/torrent.hpp>
#include <stdexcept>

#include "blame.h"
#include "claims.h"
#include "compat.h"
#include "gate.h"
#include "hashes.h"
#include "local_address.h"
#include "metadata_link.h"
#include "meter.h"
#include "slots.h"
#include "talk.h"
#include "together.h"

namespace silmaril {

namespace {

// The first requests to a peer that was idle and so has no known rate: 1 MiB. A second later libtorrent
// computes the number from the rate again.
constexpr std::uint16_t first_requests = 64;

// How often a peer is probed that sends nothing although pieces are wanted. If its host does not acknowledge
// the probe either, the host is gone, and the connection is closed: it would prevent a new connection to the
// same address.
constexpr auto probe_every = std::chrono::seconds(2);
constexpr std::uint32_t probe_answered_within = 4000;  // milliseconds

// If pieces are wanted and a peer has sent no message for this many seconds, it is silent: its program may
// have stopped while its host still acknowledges.
constexpr int silent_after = 10;

// Most requests for hashes that are rejected in the same second. libtorrent has two in flight.
constexpr std::size_t max_rejected = 1024;

// A peer's claims count for so long after it took part in sending a correct piece.
constexpr auto claims_count_for = std::chrono::seconds(60);

// The name by which this plugin of a connection is found.
constexpr char plugin_type[] = "silmaril";

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

// Sends a HASH_REQUEST, HASHES or HASH_REJECT (BEP 52).
void send_range(lt::peer_connection_handle peer, MessageType type, HashRange const& range,
                std::vector<Hash> const& hashes) {
    std::vector<char> message;
    auto const put = [&message](std::int64_t number) {
        for (int shift = 24; shift >= 0; shift -= 8) message.push_back(char(number >> shift & 0xff));
    };
    put(1 + std::int64_t(range.root.size()) + 4 * 4 + std::int64_t(hashes.size() * Hash::size()));
    message.push_back(char(type));
    message.insert(message.end(), range.root.begin(), range.root.end());
    for (auto const field : {range.base, range.index, range.count, range.proofs}) put(field);
    for (auto const& hash : hashes) message.insert(message.end(), hash.begin(), hash.end());
    peer.send_buffer(message.data(), int(message.size()));
}

// What a connection transferred lately: in the last half minute to minute.
class Traffic {
public:
    // Must be called once a second.
    void tick(std::int64_t received, std::int64_t sent, Clock::time_point now) {
        m_now = {received, sent};
        if (now - m_since < window) return;
        m_since = now;
        m_before = std::exchange(m_middle, m_now);
    }
    bool received() const { return m_now.first - m_before.first >= least; }
    bool sent() const { return m_now.second - m_before.second >= least; }

private:
    static constexpr auto window = std::chrono::seconds(30);
    // 16 blocks. With less, a connection is idle.
    static constexpr std::int64_t least = 256 * 1024;

    using Bytes = std::pair<std::int64_t, std::int64_t>;
    Bytes m_now{};
    Bytes m_middle{};  // when the current window began
    Bytes m_before{};  // when the window before it began
    Clock::time_point m_since{};
};

// How long verified data counts as delivered lately.
constexpr auto active_for = std::chrono::seconds(60);

// Posted, because libtorrent must not close a connection while it adds another one.
void end_soon(Talk& talk, std::weak_ptr<lt::peer_connection> connection) {
    talk.post([connection = std::move(connection)] {
        if (auto const open = connection.lock())
            open->disconnect(lt::errors::make_error_code(lt::errors::too_many_connections),
                             lt::operation_t::bittorrent);
    });
}

// The slots of a torrent for a newcomer from this address.
Room room_of(lt::torrent const& torrent, Guard& guard, lt::address const& newcomer) {
    return {torrent.max_connections(), !torrent.is_seed(), guard.offences(newcomer, Clock::now())};
}

// Whether a call failed because this host has no network.
bool was_not_sent(lt::error_code const& reason) {
    return reason == boost::asio::error::network_unreachable || reason == boost::asio::error::network_down;
}

// The plugin of one connection. Runs on libtorrent's network thread, pushes notes and never waits.
class Peer final : public lt::peer_plugin, public Slot {
public:
    Peer(PluginParts const& parts, std::shared_ptr<PieceHashes> hashes, std::shared_ptr<Slots> slots,
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
          m_group(parts.guard->group_of(connection.remote().address())),
          m_connection(connection),
          m_endpoint(connection.remote()),
          m_outgoing(connection.is_outgoing()) {
        m_slots->add(this);
    }
    ~Peer() override { m_slots->remove(this); }

    lt::string_view type() const override { return plugin_type; }

    void add_handshake(lt::entry& handshake) override {
        if (handshake.type() == lt::entry::dictionary_t) {
            handshake.dict().erase("upload_only");
            if (m_parts.visibility->hides_port()) handshake.dict().erase("p");
        }
        Speaker::offer(handshake);
        m_metadata.offer(handshake);
        if (handshake.type() == lt::entry::dictionary_t) handshake["m"][Claims::name] = Claims::our_id;
    }
    bool on_extension_handshake(lt::bdecode_node const& handshake) override {
        m_speaker.on_handshake(handshake);
        m_metadata.on_handshake(handshake);
        auto const messages =
            handshake.type() == lt::bdecode_node::dict_t ? handshake.dict_find_dict("m") : lt::bdecode_node();
        auto const number = messages ? messages.dict_find_int_value("lt_donthave", 0) : 0;
        m_dont_have = number > 0 && number < 256 ? std::uint8_t(number) : std::uint8_t(0);
        auto const claims = messages ? messages.dict_find_int_value(Claims::name) : 0;
        m_claims_id = claims > 0 && claims < 256 ? std::uint8_t(claims) : std::uint8_t(0);
        auto const connection = this->connection();
        if (connection && m_claims_id != 0) m_together->greet(*connection, m_claims_id);
        return true;
    }
    bool on_extended(int length, int id, lt::span<char const> so_far) override {
        if (id == Claims::our_id) {
            if (so_far.size() == length) m_together->claimed(*m_claims, so_far);
            return true;
        }
        return m_metadata.on_message(length, id, so_far) || m_speaker.on_message(length, id, so_far);
    }
    bool on_handshake(lt::span<char const> reserved) override {
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
    verdict on_whole_message(int type, lt::span<char const> body) override {
        m_last_heard = Clock::now();
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
                if (send_hashes(body) || reject_later(body)) return verdict::drop;
                break;
            case Gate::Verdict::drop:
                return verdict::drop;
            case Gate::Verdict::reject:
                reject_hashes(body);
                return verdict::drop;
            case Gate::Verdict::reject_later:
                if (reject_later(body)) return verdict::drop;
                break;
            case Gate::Verdict::disconnect:
                break;
        }
        m_parts.guard->remember(remote(), Clock::now());
        return verdict::disconnect;
    }
    bool on_keepalive() override {
        if (m_gate.check_keepalive(Clock::now()) == Gate::Verdict::pass) return true;
        m_parts.guard->remember(remote(), Clock::now());
        return false;
    }
    void sent_request(lt::peer_request const& request) override {
        m_gate.requested_block(static_cast<int>(request.piece), request.start);
    }
    void sent_hash_request(lt::hash_request const& request) override {
        auto const connection = m_connection.native_handle();
        auto const torrent = connection ? connection->associated_torrent().lock() : nullptr;
        if (!torrent) return;
        auto const root = torrent->torrent_file().files().root(request.file);
        m_gate.requested({root, request.base, request.index, request.count, request.proof_layers});
    }
    bool on_have_none() override {
        m_pace->announced(Clock::now());
        return false;
    }
    bool on_bitfield(lt::bitfield const&) override {
        m_pace->announced(Clock::now());
        return false;
    }
    bool on_have(lt::piece_index_t piece) override {
        m_pace->announced(Clock::now());
        m_claims->kept(std::uint32_t(static_cast<int>(piece)), Clock::now());
        m_together->turn_soon();
        return false;
    }
    bool choose_requests(std::vector<lt::piece_block>& blocks) override {
        auto const connection = this->connection();
        return connection && !m_blame->is_active() && m_together->choose(*connection, *m_pace, blocks);
    }
    void on_piece_pass(lt::piece_index_t) override {
        m_gate.proven();
        m_proven_at = Clock::now();
    }
    void sent_piece(lt::peer_request const& block) override {
        if (auto const connection = this->connection()) m_meter.sent(*connection, block);
    }
    bool on_request(lt::peer_request const&) override {
        if (auto const connection = this->connection()) m_meter.requested(*connection);
        return false;
    }
    bool on_cancel(lt::peer_request const& block) override {
        if (auto const connection = this->connection()) m_meter.cancelled(*connection, block);
        return false;
    }
    void sent_interested() override {
        RequestQueue::open(m_connection, first_requests);
        if (m_parts.parts) m_parts.parts->peer_ready();
    }
    bool on_unchoke() override {
        if (m_parts.parts) m_parts.parts->peer_ready();
        return false;
    }
    // Requests hashes of blocks. False if the peer has left too many such requests unanswered.
    bool ask(HashRange const& range) {
        if (!m_greeted || !m_gate.may_ask()) return false;
        m_gate.requested_blocks(range);
        send_range(m_connection, MessageType::hash_request, range, {});
        return true;
    }
    void tick() override {
        if (!m_greeted) return;
        if (auto const connection = this->connection()) {
            auto const& statistics = connection->statistics();
            auto const taken = statistics.total_payload_upload() - unacknowledged(*connection);
            m_traffic.tick(statistics.total_payload_download(), taken, Clock::now());
            m_pace->tick(*connection, Clock::now());
            m_meter.tick(*connection, Clock::now());
        }
        if (!m_gate.keep(load_of(m_connection), Clock::now())) {
            end();
            return;
        }
        for (auto const& fields : std::exchange(m_rejected, {})) reject_hashes(fields);
        count_silence();
        if (!has_address() || !probe()) return;
        if (auto const piece = m_hashes->prompt(m_connection))
            m_gate.requested_block(static_cast<int>(*piece), 0);
        // libtorrent unchokes a peer directly after the handshake, before it is interested. If it stayed
        // unchoked, the peer would wait for the blocks that it requests.
        if (m_parts.visibility->withheld) m_connection.choke_this_peer();
    }
    // True: libtorrent ignores the message, and the peer stays unchoked.
    bool on_not_interested() override { return true; }
    void on_disconnect(lt::error_code const& reason) override {
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

    Fellow fellow() const {
        bool const counts = is_proven() && Clock::now() - m_proven_at < claims_count_for;
        return {connection(), m_pace, m_claims, m_claims_id, m_group, counts};
    }
    // Whether the peer has announced every piece and is silent.
    bool is_silent_seed() const {
        auto const connection = this->connection();
        return connection && m_silent_seconds >= silent_after && connection->is_seed();
    }

    void send_withdrawn(lt::peer_connection& peer, std::vector<lt::piece_index_t> const& pieces) const {
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

    // Null when the connection has ended.
    std::shared_ptr<lt::peer_connection> connection() const { return m_connection.native_handle(); }
    lt::address group() const override { return group_address(m_endpoint.address()); }
    bool is_exempt() const override { return m_parts.guard->is_exempt(m_endpoint.address()); }
    bool is_named() const override { return m_parts.guard->is_named(m_endpoint.address()); }
    bool is_outgoing() const override { return m_outgoing; }
    bool is_pending() const override { return m_outgoing && !m_greeted; }
    bool is_proven() const { return m_gate.is_proven(); }
    Worth worth() const override {
        if (is_proven()) return Clock::now() - m_proven_at < active_for ? Worth::active : Worth::verified;
        if (m_traffic.received()) return Worth::sends;
        if (m_traffic.sent() && !m_meter.is_limited()) return Worth::served;
        auto const connection = this->connection();
        return connection && has_transferred(*connection) ? Worth::idle : Worth::silent;
    }
    Clock::time_point opened() const override { return m_opened; }
    bool is_over() const override {
        auto const connection = this->connection();
        return !connection || connection->is_disconnecting();
    }

private:
    void report(Note::Kind kind, std::string text = {}) {
        Note note{};
        note.kind = kind;
        note.torrent = m_parts.torrent;
        note.text = std::move(text);
        note.endpoint = m_endpoint;
        note.outgoing = m_outgoing;
        m_parts.outbox->push(std::move(note));
    }
    // Must be called once a second.
    void count_silence() {
        auto const connection = m_connection.native_handle();
        auto const torrent = connection ? connection->associated_torrent().lock() : nullptr;
        bool const wanted = torrent && torrent->valid_metadata() && !torrent->is_finished();
        bool const heard = Clock::now() - m_last_heard < std::chrono::seconds(1);
        m_silent_seconds = wanted && !heard ? m_silent_seconds + 1 : 0;
    }
    // BEP 3: the fields of REQUEST are the piece, the offset in it and the length.
    void note_request(lt::span<char const> body) const {
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
    // Closes the connection and returns false if this host has lost its local address. No packet can arrive
    // on such a connection, and while it exists libtorrent does not connect to the peer from another address.
    bool has_address() {
        auto const connection = m_connection.native_handle();
        if (!connection || is_local(connection->local_endpoint().address())) return true;
        connection->disconnect(lt::error_code(EADDRNOTAVAIL, boost::system::system_category()),
                               lt::operation_t::bittorrent);
        return false;
    }
    // Closes the connection and returns false if the host is gone.
    bool probe() {
        auto const now = Clock::now();
        auto const connection = m_connection.native_handle();
        auto const torrent = connection ? connection->associated_torrent().lock() : nullptr;
        if (!torrent || now - m_last_heard < probe_every) return true;
        if (!torrent->valid_metadata() || torrent->is_finished()) return true;
        if (is_unanswered(*connection, probe_answered_within)) {
            connection->disconnect(lt::errors::make_error_code(lt::errors::timed_out_inactivity),
                                   lt::operation_t::bittorrent);
            return false;
        }
        if (now - m_probed >= probe_every) {
            // BEP 3: a message of length 0 keeps the connection alive.
            constexpr std::array<char, 4> keep_alive{};
            m_connection.send_buffer(keep_alive.data(), int(keep_alive.size()));
            m_probed = now;
        }
        return true;
    }
    void end() {
        m_connection.disconnect(lt::errors::make_error_code(lt::errors::invalid_message),
                                lt::operation_t::bittorrent, lt::peer_connection_interface::peer_error);
    }
    Rumours::Called called() const { return {m_parts.torrent, m_endpoint}; }
    Remote remote() const { return {m_endpoint, m_connection.pid(), m_outgoing}; }
    // The handshake with a peer that this node called is complete.
    void make_room() {
        auto const connection = this->connection();
        auto const torrent = connection ? connection->associated_torrent().lock() : nullptr;
        if (!torrent) return;
        auto const room = room_of(*torrent, *m_parts.guard, m_endpoint.address());
        auto const* const replaced = m_slots->admit(this, room, Clock::now());
        if (replaced) end_soon(*m_parts.talk, static_cast<Peer const*>(replaced)->connection());
    }
    // Closes the connection, and refuses the peer for a while.
    void end_for_good() {
        m_parts.guard->remember(remote(), Clock::now());
        end();
    }
    // Sends hashes of blocks when it is the peer's turn. False if too many requests wait.
    bool send_hashes(lt::span<char const> body) {
        Turns::Sender sender(group(), 0);
        if (is_exempt()) sender = m_endpoint;
        auto start = [proof = m_parts.proof, peer = m_connection, range = *range_in(body)](Turns::Done done) {
            auto const connection = peer.native_handle();
            if (!connection || connection->is_disconnecting() || !proof->hashes_of) return false;
            return proof->hashes_of(range, [peer, range, done = std::move(done)](auto const& hashes) {
                auto const connection = peer.native_handle();
                if (connection && !connection->is_disconnecting())
                    send_range(peer, hashes ? MessageType::hashes : MessageType::hash_reject, range,
                               hashes ? *hashes : std::vector<Hash>{});
                done();
            });
        };
        return m_parts.turns->add(sender, std::move(start));
    }
    // Rejects a request for hashes in the next second. False if the peer has sent too many of them.
    bool reject_later(lt::span<char const> fields) {
        if (m_rejected.size() >= max_rejected) return false;
        m_rejected.emplace_back(fields.begin(), fields.end());
        return true;
    }
    // BEP 52: a HASH_REJECT has the fields of the request.
    void reject_hashes(lt::span<char const> fields) {
        std::vector<char> message{0, 0, 0, char(fields.size() + 1), char(MessageType::hash_reject)};
        message.insert(message.end(), fields.begin(), fields.end());
        m_connection.send_buffer(message.data(), int(message.size()));
    }

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
    std::shared_ptr<Group> const m_group;  // null if no group limit applies
    std::uint8_t m_claims_id = 0;
    lt::peer_connection_handle m_connection;  // weak
    lt::tcp::endpoint const m_endpoint;
    bool const m_outgoing;
    Clock::time_point const m_opened = Clock::now();
    bool m_greeted = false;
    bool m_fast = false;           // supports BEP 6
    std::uint8_t m_dont_have = 0;  // its number of lt_donthave; 0 if it does not support that
    Clock::time_point m_last_heard = Clock::now();
    Clock::time_point m_probed;
    int m_silent_seconds = 0;  // counted only while pieces are wanted
    Traffic m_traffic;
    Clock::time_point m_proven_at;
    std::vector<std::vector<char>> m_rejected;  // the fields of requests that are rejected in the next second
};

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
    }
    void tick() override {
        m_hashes->tick();
        if (m_metadata) m_metadata->tick(Clock::now());
        m_blame->tick();
        if (m_parts.parts) m_parts.parts->tick();
        m_together->tick();
        report_silent_seeds();
    }
    void on_piece_pass(lt::piece_index_t piece) override { m_together->passed(piece); }
    bool holds_back(lt::piece_index_t piece, lt::time_point) override {
        return !m_blame->is_active() && m_together->holds_back(piece);
    }
    void on_piece_failed(lt::piece_index_t piece) override { m_blame->piece_failed(piece); }
    ~Plugin() override {
        if (m_parts.parts) m_parts.parts->close();
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

    static std::vector<Parts::Source> sources(Slots const& slots) {
        std::vector<Parts::Source> found;
        slots.each([&](Slot const* slot) {
            auto* const peer = const_cast<Peer*>(static_cast<Peer const*>(slot));
            auto connection = peer->connection();
            if (!connection) return;
            // Called before the next peer can leave.
            found.push_back(
                {std::move(connection), [peer](HashRange const& range) { return peer->ask(range); }});
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
        });
    int m_silent_seeds = 0;  // as last reported
};

}  // namespace

void send_withdrawn(lt::peer_connection& peer, std::vector<lt::piece_index_t> const& pieces) {
    auto const* const plugin = peer.find_plugin(plugin_type);
    if (plugin) static_cast<Peer const*>(plugin)->send_withdrawn(peer, pieces);
}

std::shared_ptr<lt::torrent_plugin> make_plugin(PluginParts parts, lt::torrent_handle handle) {
    return std::make_shared<Plugin>(std::move(parts), std::move(handle));
}

}  // namespace silmaril
