#include "gate.h"

#include <algorithm>

#include "room.h"

namespace silmaril {

namespace {

constexpr std::ptrdiff_t range_length = Hash::size() + 4 * 4;
constexpr std::int64_t message_header = 5;

// Most bytes of answers to hash requests in the send buffer, of one connection and of a group. An honest peer
// has a few requests of 512 hashes in flight, 16 KiB each.
constexpr std::int64_t max_answers = 1 << 20;
constexpr std::int64_t max_group_answers = 4 << 20;

// Most bytes in the send buffer of one connection, and of a group. libtorrent stops reading blocks for it at
// 8 MiB (send_buffer_watermark), but continues to add rejects and answers.
constexpr std::int64_t max_unsent = 24 << 20;
constexpr std::int64_t max_group_unsent = 16 << 20;

// How long a peer may read nothing while bytes wait for it. The second limit applies while its group has too
// many unsent bytes, the third while memory is short (room.h). A peer that reads slowly is not affected; but
// while memory is short, it must read at least this part of its bytes in that time.
constexpr auto max_stall = std::chrono::seconds(60);
constexpr auto max_stall_of_group = std::chrono::seconds(20);
constexpr auto max_stall_when_short = std::chrono::seconds(5);
constexpr std::int64_t part_when_short = 16;

// Most block requests that one peer has neither answered nor rejected. Cancelled requests count, because
// their blocks may be in flight. libtorrent keeps at most 1500 in flight (max_out_request_queue).
constexpr std::size_t max_blocks = 32 * 1024;

// How often one peer may reject hash requests before it gets no more of them.
constexpr int max_rejects = 8;

// Most pending hash requests to one peer, of libtorrent and of this node each. libtorrent keeps at most two
// in flight.
constexpr std::size_t max_requested = 64;

// Most HAVE messages of one peer, besides one for each piece: a peer whose cache is full may announce a piece
// again after lt_donthave. Without metadata the number of pieces is unknown.
constexpr double more_haves = 4096;
constexpr double haves_without_metadata = 1 << 20;
constexpr double haves_per_second = 64;

std::int64_t number_at(lt::span<char const> bytes, std::ptrdiff_t at) {
    std::uint32_t number = 0;
    for (std::ptrdiff_t i = at; i < at + 4; ++i) number = number << 8 | std::uint8_t(bytes[i]);
    return number;
}

// The length of a message's body if its type has a fixed length; otherwise -1.
constexpr std::ptrdiff_t fixed_length(MessageType type) {
    switch (type) {
        case MessageType::choke:
        case MessageType::unchoke:
        case MessageType::interested:
        case MessageType::not_interested:
        case MessageType::have_all:
        case MessageType::have_none:
            return 0;
        case MessageType::port:
            return 2;
        case MessageType::have:
        case MessageType::suggest:
        case MessageType::allowed_fast:
            return 4;
        case MessageType::piece:
            return 8;  // the gate sees only these bytes
        case MessageType::request:
        case MessageType::cancel:
        case MessageType::reject:
            return 12;
        case MessageType::hash_request:
        case MessageType::hash_reject:
            return range_length;
        case MessageType::bitfield:
        case MessageType::extended:
        case MessageType::hashes:
            break;
    }
    return -1;
}

// Removes a request; false if there is no such request.
bool remove_from(std::vector<HashRange>& requests, HashRange const& range) {
    auto const found = std::find(requests.begin(), requests.end(), range);
    if (found == requests.end()) return false;
    requests.erase(found);
    return true;
}

void add_to(std::vector<HashRange>& requests, HashRange const& range) {
    requests.push_back(range);
    if (requests.size() > max_requested) requests.erase(requests.begin());
}

// A peer that floods is disconnected: each message costs time of the thread that serves all peers.
Gate::Verdict within(Bucket& bucket, Clock::time_point now) {
    return bucket.spend(now) ? Gate::Verdict::pass : Gate::Verdict::disconnect;
}

}  // namespace

std::optional<HashRange> range_in(lt::span<char const> body) {
    if (body.size() < range_length) return std::nullopt;
    HashRange range;
    range.root = Hash(body.data());
    range.base = number_at(body, Hash::size());
    range.index = number_at(body, Hash::size() + 4);
    range.count = number_at(body, Hash::size() + 8);
    range.proofs = number_at(body, Hash::size() + 12);
    return range;
}

Gate::Gate(std::shared_ptr<Guard> guard, std::shared_ptr<Proof> proof, lt::address const& remote)
    : m_guard(std::move(guard)),
      m_proof(std::move(proof)),
      m_group(m_guard->group_of(remote)),
      m_haves(m_proof ? m_proof->pieces() + more_haves : haves_without_metadata, haves_per_second) {
    if (m_group) ++m_group->connections;
    m_guard->count_connection(1);
}

Gate::~Gate() {
    leave_group();
    m_guard->count_connection(-1);
    m_guard->count_stuck(-m_stuck);
}

void Gate::leave_group() {
    if (!m_group) return;
    --m_group->connections;
    m_group->unsent -= m_unsent;
    m_group->answers -= m_answers_bytes;
    m_group = nullptr;
}

void Gate::proven() {
    m_proven = true;
    leave_group();
}

void Gate::requested_block(std::int64_t piece, std::int64_t start) {
    // Only a peer that chokes silently leaves so many requests unanswered. From now on the pending requests
    // are unknown.
    if (m_blocks.size() >= max_blocks) {
        m_blocks.clear();
        m_forgot_blocks = true;
    }
    m_blocks.emplace(piece, start);
}

void Gate::requested(HashRange const& range) { add_to(m_requested, range); }

void Gate::requested_blocks(HashRange const& range) { add_to(m_own, range); }

void Gate::update(Load load) {
    if (m_group) m_group->unsent += load.unsent - m_unsent;
    m_unsent = load.unsent;
    // If nothing is unsent, all answers were sent, even answers that libtorrent made shorter than counted
    // here.
    while (!m_answers.empty() && (load.unsent == 0 || m_answers.front().first <= load.sent)) {
        m_answers_bytes -= m_answers.front().second;
        if (m_group) m_group->answers -= m_answers.front().second;
        m_answers.pop_front();
    }
}

void Gate::note_progress(Load load, Clock::time_point now) {
    auto const stuck = stuck_bytes(load.unsent, load.sent - m_sent);
    m_guard->count_stuck(stuck - m_stuck);
    m_stuck = stuck;
    m_sent = load.sent;
    auto const enough = is_short(*m_guard) ? std::max<std::int64_t>(load.unsent / part_when_short, 1) : 1;
    if (load.unsent > 0 && load.sent < m_progress_sent + enough && m_progress != Clock::time_point{}) return;
    m_progress = now;
    m_progress_sent = load.sent;
}

bool Gate::keep(Load load, Clock::time_point now) {
    update(load);
    note_progress(load, now);
    bool const group_full = m_group && m_group->unsent > max_group_unsent;
    auto stall = group_full ? max_stall_of_group : max_stall;
    if (is_short(*m_guard)) stall = max_stall_when_short;
    return load.unsent <= max_unsent && now - m_progress < stall;
}

Gate::Verdict Gate::check(int type, lt::span<char const> body, Load load, Clock::time_point now,
                          std::vector<int>& finished) {
    m_answer.reset();
    m_wants_blocks = false;
    auto const known = static_cast<MessageType>(type);
    auto const length = fixed_length(known);
    if (length >= 0 && body.size() != length) return Verdict::disconnect;
    update(load);
    if (load.unsent > max_unsent) return Verdict::disconnect;
    switch (known) {
        case MessageType::extended:
            if (body.empty()) return Verdict::disconnect;
            // The extension handshake counts too. The group's tokens are spent last, so that one peer cannot
            // spend all of them.
            if (!m_extension_messages.spend(now)) return Verdict::disconnect;
            if (m_group && !m_group->extension_messages.spend(now)) return Verdict::drop;
            return Verdict::pass;
        case MessageType::piece:
            return on_piece(body);
        case MessageType::reject: {
            auto const found = m_blocks.find({number_at(body, 0), number_at(body, 4)});
            if (found == m_blocks.end()) return within(m_state_messages, now);
            m_blocks.erase(found);
            return Verdict::pass;
        }
        case MessageType::request:
        case MessageType::cancel:
            return on_request(load, now);
        case MessageType::have:
            return within(m_haves, now);
        case MessageType::choke:
        case MessageType::unchoke:
        case MessageType::interested:
        case MessageType::not_interested:
        case MessageType::bitfield:
        case MessageType::port:
        case MessageType::suggest:
        case MessageType::have_all:
        case MessageType::have_none:
        case MessageType::allowed_fast:
            return within(m_state_messages, now);
        case MessageType::hash_request:
            return on_hash_request(body, load, now);
        case MessageType::hashes:
            return on_hashes(body, finished);
        case MessageType::hash_reject:
            return on_hash_reject(body);
        default:
            return Verdict::pass;
    }
}

Gate::Verdict Gate::check_keepalive(Clock::time_point now) { return within(m_state_messages, now); }

Gate::Verdict Gate::on_request(Load load, Clock::time_point now) {
    if (m_requests.spend(now)) return Verdict::pass;
    // A fast download: each block that was sent accounts for one REQUEST and one CANCEL.
    if (m_paid_requests >= load.sent / block_size * 2) return Verdict::disconnect;
    ++m_paid_requests;
    return Verdict::pass;
}

Gate::Verdict Gate::on_hash_request(lt::span<char const> body, Load load, Clock::time_point now) {
    auto const range = *range_in(body);
    // Requests for hashes of blocks wait for their turn (turns.h), so they need no other limit.
    m_wants_blocks = m_proof && m_proof->subtree(range);
    bool const allowed =
        m_wants_blocks || (m_hash_requests.spend(now) && (!m_group || m_group->hash_requests.spend(now)));
    bool const fits = allowed && m_proof && m_proof->fits(range);
    auto answer = message_header + range_length;
    if (fits) answer += (range.count + range.uncles()) * Hash::size();
    // A peer that sends requests and does not read gets no more answers, not even rejects.
    if (m_answers_bytes + answer > max_answers) return Verdict::disconnect;
    if (m_group && m_group->answers + answer > max_group_answers) return Verdict::drop;
    m_answers.emplace_back(load.sent + load.unsent + answer, answer);
    m_answers_bytes += answer;
    if (m_group) m_group->answers += answer;
    // libtorrent repeats a rejected request immediately.
    if (!allowed) return Verdict::reject_later;
    return fits ? Verdict::pass : Verdict::reject;
}

Gate::Verdict Gate::on_piece(lt::span<char const> body) {
    // A block that was not requested is useless, and it would leave the real request open.
    auto const found = m_blocks.find({number_at(body, 0), number_at(body, 4)});
    if (found == m_blocks.end()) return m_forgot_blocks ? Verdict::pass : Verdict::disconnect;
    m_blocks.erase(found);
    return Verdict::pass;
}

Gate::Verdict Gate::on_hashes(lt::span<char const> body, std::vector<int>& finished) {
    if (body.size() < range_length || (body.size() - range_length) % Hash::size() != 0)
        return Verdict::disconnect;
    auto const range = *range_in(body);
    bool const own = !remove_from(m_requested, range);
    if (own && !remove_from(m_own, range)) return Verdict::disconnect;
    // A torrent that was added without metadata fetches no data and needs no hashes.
    if (!m_proof) return Verdict::drop;
    std::vector<Hash> hashes;
    hashes.reserve(std::size_t((body.size() - range_length) / Hash::size()));
    for (auto at = range_length; at < body.size(); at += Hash::size()) hashes.emplace_back(body.data() + at);
    if (!m_proof->learn(range, hashes, finished)) return Verdict::disconnect;
    if (!own) return Verdict::pass;
    m_answer = {range, true};
    return Verdict::drop;
}

Gate::Verdict Gate::on_hash_reject(lt::span<char const> body) {
    auto const range = *range_in(body);
    if (!remove_from(m_requested, range)) {
        if (!remove_from(m_own, range)) return Verdict::disconnect;
        m_answer = {range, false};
        return Verdict::drop;
    }
    // After a reject libtorrent sends the request to the same peer again, immediately. When the gate drops
    // rejects, libtorrent has two pending requests to this peer and uses other peers.
    return ++m_rejects > max_rejects ? Verdict::drop : Verdict::pass;
}

}  // namespace silmaril
