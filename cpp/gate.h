// The gate checks every complete incoming message of one connection before libtorrent handles it.
//
// HASHES and HASH_REJECT are accepted only as the answer to one of our requests, and HASHES only if our own
// computation proves them (proof.h). The cost of a peer is bounded per connection and per address group
// (guard.h). Used on the network thread only. The gate does not use libtorrent's connections, so that it can
// be tested without them.
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

// The fields at the beginning of HASH_REQUEST, HASHES and HASH_REJECT; none if the body is too short.
std::optional<HashRange> range_in(lt::span<char const> body);

// A connection's send buffer.
struct Load {
    std::int64_t sent = 0;    // bytes sent so far
    std::int64_t unsent = 0;  // bytes in the buffer
};

class Gate {
public:
    enum class Verdict {
        pass,
        drop,          // ignore the message
        reject,        // answer with HASH_REJECT
        reject_later,  // the same, but not before the next second
        disconnect,    // the message breaks a rule
    };

    // `proof`: null for a torrent without metadata.
    Gate(std::shared_ptr<Guard> guard, std::shared_ptr<Proof> proof, lt::address const& remote);
    ~Gate();
    Gate(Gate const&) = delete;
    Gate& operator=(Gate const&) = delete;

    // Checks a message. `body`: the message without length and type; of a PIECE message only the first 8
    // bytes. Adds to `finished` the pieces that HASHES finish.
    Verdict check(int type, lt::span<char const> body, Load load, Clock::time_point now,
                  std::vector<int>& finished);

    // Checks a keep-alive (BEP 3: a message without a type).
    Verdict check_keepalive(Clock::time_point now);

    // A REQUEST was sent for the block.
    void requested_block(std::int64_t piece, std::int64_t start);
    // libtorrent sent a HASH_REQUEST.
    void requested(HashRange const& range);
    // Whether a further such request can be sent: the peer has answered most of the earlier ones.
    bool may_ask() const { return m_own.size() < max_own; }
    static constexpr std::size_t max_own = 32;
    // This node sent a HASH_REQUEST for hashes of blocks. libtorrent does not see its answer.
    void requested_blocks(HashRange const& range);
    struct Answer {
        HashRange range;
        bool proved;  // otherwise the peer rejects the request
    };
    // The answer to such a request in the message that was checked last.
    std::optional<Answer> const& answer() const { return m_answer; }
    // Whether the message that was checked last, a HASH_REQUEST that passed, requests hashes of blocks. This
    // node computes them from the bytes (leaves.h).
    bool wants_blocks() const { return m_wants_blocks; }
    // The peer contributed to a verified piece. No group limit applies to it any more.
    void proven();
    bool is_proven() const { return m_proven; }
    // Must be called once a second. False if the peer has not read for too long.
    bool keep(Load load, Clock::time_point now);

private:
    Verdict on_request(Load load, Clock::time_point now);
    Verdict on_piece(lt::span<char const> body);
    Verdict on_hash_request(lt::span<char const> body, Load load, Clock::time_point now);
    Verdict on_hashes(lt::span<char const> body, std::vector<int>& finished);
    Verdict on_hash_reject(lt::span<char const> body);
    void update(Load load);
    void leave_group();
    void note_progress(Load load, Clock::time_point now);

    std::shared_ptr<Guard> const m_guard;
    std::shared_ptr<Proof> const m_proof;
    std::shared_ptr<Group> m_group;  // null if no group limit applies
    bool m_proven = false;
    std::vector<HashRange> m_requested;  // pending hash requests of libtorrent
    std::vector<HashRange> m_own;        // pending requests for hashes of blocks
    std::optional<Answer> m_answer;
    bool m_wants_blocks = false;
    std::multiset<std::pair<std::int64_t, std::int64_t>>
        m_blocks;  // our pending block requests, by piece and start
    bool m_forgot_blocks = false;
    int m_rejects = 0;  // of our hash requests
    // Answers to hash requests in the send buffer: the position of each end in the stream of sent bytes, and
    // the length.
    std::deque<std::pair<std::int64_t, std::int64_t>> m_answers;
    std::int64_t m_answers_bytes = 0;
    std::int64_t m_unsent = 0;         // the value that is included in the group's sum
    std::int64_t m_stuck = 0;          // the value that is included in the guard's sum
    std::int64_t m_sent = 0;           // a second ago
    Clock::time_point m_progress{};    // when enough bytes were last sent, or the buffer was last empty
    std::int64_t m_progress_sent = 0;  // the bytes sent until then
    Bucket m_hash_requests{256, 64};
    Bucket m_extension_messages{4096, 512};
    // Messages that announce a state: an honest peer sends few of them.
    Bucket m_state_messages{4096, 64};
    // REQUEST and CANCEL, in addition to those that the bytes sent to the peer account for.
    Bucket m_requests{32 * 1024, 1024};
    std::int64_t m_paid_requests = 0;
    // HAVE: an honest peer sends one for each piece that it gets.
    Bucket m_haves;
};

}  // namespace silmaril
