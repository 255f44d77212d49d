// The gate: the check that every whole incoming message of one connection passes before libtorrent acts on
// it.
//
// HASHES and HASH_REJECT are accepted only as the answer to a request of ours, and HASHES only when our own
// computation proves them (proof.h). What a peer may cost is bounded, per connection and per address group
// (guard.h). For the network thread alone. It knows no connection of libtorrent, so that it can be tested
// alone.
#pragma once

#include <cstdint>
#include <deque>
#include <libtorrent/address.hpp>
#include <libtorrent/span.hpp>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "guard.h"
#include "proof.h"

namespace silmaril {

// BEP 3, 6, 10 and 52.
enum class MessageType : int {
    choke = 0,
    unchoke = 1,
    interested = 2,
    not_interested = 3,
    have = 4,
    bitfield = 5,
    request = 6,
    piece = 7,
    cancel = 8,
    port = 9,
    suggest = 13,
    have_all = 14,
    have_none = 15,
    reject = 16,
    allowed_fast = 17,
    extended = 20,
    hash_request = 21,
    hashes = 22,
    hash_reject = 23
};

// The fields that HASH_REQUEST, HASHES and HASH_REJECT begin with. None when the body is too short for them.
std::optional<HashRange> range_in(lt::span<char const> body);

// A connection's send buffer.
struct Load {
    std::int64_t sent = 0;    // bytes that have left it so far
    std::int64_t unsent = 0;  // bytes in it
};

class Gate {
public:
    enum class Verdict {
        pass,
        drop,        // ignore it
        reject,      // answer it with HASH_REJECT
        disconnect,  // it breaks a rule
    };

    // `proof`: null for a torrent without metadata.
    Gate(std::shared_ptr<Guard> guard, std::shared_ptr<Proof> proof, lt::address const& remote);
    ~Gate();
    Gate(Gate const&) = delete;
    Gate& operator=(Gate const&) = delete;

    // Judges a message. `body`: without its length and type; of a PIECE message, its first 8 bytes. Adds to
    // `finished` the pieces that HASHES finish.
    Verdict check(int type, lt::span<char const> body, Load load, Clock::time_point now,
                  std::vector<int>& finished);

    // A REQUEST was sent for the block.
    void requested_block(std::int64_t piece, std::int64_t start);
    // A HASH_REQUEST was sent.
    void requested(HashRange const& range);
    // The peer took part in a piece that was verified: no group limit holds for it any more.
    void proven();
    bool is_proven() const { return m_proven; }
    // To be called once a second. False when the peer has stopped reading for too long.
    bool keep(Load load, Clock::time_point now);

private:
    Verdict on_piece(lt::span<char const> body);
    Verdict on_hash_request(lt::span<char const> body, Load load, Clock::time_point now);
    Verdict on_hashes(lt::span<char const> body, std::vector<int>& finished);
    Verdict on_hash_reject(lt::span<char const> body);
    bool take_answered(HashRange const& range);
    void update(Load load);
    void leave_group();

    std::shared_ptr<Guard> const m_guard;
    std::shared_ptr<Proof> const m_proof;
    std::shared_ptr<Group> m_group;  // null where no group limit holds
    bool m_proven = false;
    std::vector<HashRange> m_requested;                             // our requests that are not answered yet
    std::multiset<std::pair<std::int64_t, std::int64_t>> m_blocks;  // the same of blocks, by piece and start
    bool m_forgot_blocks = false;
    int m_rejects = 0;  // of our hash requests
    // Answers to hash requests in the send buffer: where each ends in the stream of bytes sent, and its
    // length.
    std::deque<std::pair<std::int64_t, std::int64_t>> m_answers;
    std::int64_t m_answers_bytes = 0;
    std::int64_t m_unsent = 0;  // as counted in the group
    std::int64_t m_sent = 0;
    Clock::time_point m_progress{};  // when bytes left the send buffer last, or it was empty
    Bucket m_hash_requests{256, 64};
    Bucket m_extension_messages{4096, 512};
};

}  // namespace silmaril
