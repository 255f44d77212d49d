#include "late.h"

#include "merkle.h"

namespace silmaril {

namespace {

// Seconds without a requested block after which a peer is silent.
constexpr int silent_after = 2;

// A silent peer gets its requests again after so many seconds, then after twice as many, and so on.
constexpr int repeat_after = 10;

// The longest time until a block comes while its sender sends more recent ones, in seconds.
// libtorrent requests what a peer sends in three seconds.
constexpr int longest = 30;

// A peer may send blocks in another order than they were requested in: bytes that may overtake a block.
constexpr std::int64_t leeway = 4 << 20;

bool is_due(int silent) {
    auto due = repeat_after;
    while (due < silent) due *= 2;
    return due == silent;
}

}  // namespace

void Late::tick(Peers const& peers, std::function<bool(lt::piece_block const&)> const& awaited) {
    std::map<Peer, Progress> progress;
    std::map<std::pair<Peer, lt::piece_block>, Owed> owed;
    for (auto const& peer : peers) {
        auto const received = peer->statistics().total_payload_download();
        auto const before = m_progress.find(peer.get());
        bool const sends = before == m_progress.end() || before->second.received != received;
        // A peer that was silent remains so until it sends a block.
        bool const waits = !peer->download_queue().empty();
        int const silent = sends ? 0 : before->second.silent + waits;
        progress[peer.get()] = {received, silent};

        std::int64_t ahead = 0;
        std::vector<lt::piece_block> dropped;
        for (auto const& pending : peer->download_queue()) {
            if (awaited(pending.block)) {
                auto const key = std::pair(Peer(peer.get()), pending.block);
                auto const known = m_owed.find(key);
                auto state = known == m_owed.end() ? Owed{received, ahead, 0} : known->second;
                ++state.seconds;
                bool const overtaken = received - state.received > state.ahead + leeway;
                if (overtaken || state.seconds > longest || (!sends && waits && is_due(silent)))
                    dropped.push_back(pending.block);
                else
                    owed[key] = state;
            }
            ahead += block_size;
        }
        for (auto const& block : dropped) peer->forget_request(block);
    }
    m_progress = std::move(progress);
    m_owed = std::move(owed);
}

bool Late::is_silent(lt::peer_connection const& peer) const {
    auto const found = m_progress.find(&peer);
    return found != m_progress.end() && found->second.silent >= silent_after;
}

void Late::clear() {
    m_progress.clear();
    m_owed.clear();
}

}  // namespace silmaril
