#include "hash_answers.h"

#include <libtorrent/peer_connection.hpp>
#include <utility>

#include "frame.h"

namespace silmaril {

namespace {

// Most requests for hashes that are rejected in the same second. libtorrent has two in flight.
constexpr std::size_t max_rejected = 1024;

}  // namespace

void send_range(lt::peer_connection_handle peer, MessageType type, HashRange const& range,
                std::vector<Hash> const& hashes) {
    std::vector<char> message;
    put_number(message,
               1 + std::int64_t(range.root.size()) + 4 * 4 + std::int64_t(hashes.size() * Hash::size()));
    message.push_back(char(type));
    message.insert(message.end(), range.root.begin(), range.root.end());
    for (auto const field : {range.base, range.index, range.count, range.proofs}) put_number(message, field);
    for (auto const& hash : hashes) message.insert(message.end(), hash.begin(), hash.end());
    peer.send_buffer(message.data(), int(message.size()));
}

bool HashAnswers::send(Turns::Sender const& sender, lt::span<char const> fields) {
    auto start = [proof = m_proof, peer = m_connection, range = *range_in(fields)](Turns::Done done) {
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
    return m_turns->add(sender, std::move(start));
}

bool HashAnswers::reject_later(lt::span<char const> fields) {
    if (m_rejected.size() >= max_rejected) return false;
    m_rejected.emplace_back(fields.begin(), fields.end());
    return true;
}

void HashAnswers::reject(lt::span<char const> fields) {
    // BEP 52: a HASH_REJECT has the fields of the request.
    std::vector<char> message;
    put_number(message, fields.size() + 1);
    message.push_back(char(MessageType::hash_reject));
    message.insert(message.end(), fields.begin(), fields.end());
    m_connection.send_buffer(message.data(), int(message.size()));
}

void HashAnswers::tick() {
    for (auto const& fields : std::exchange(m_rejected, {})) reject(fields);
}

}  // namespace silmaril
