// Measures how much of the upload to one peer is wasted: blocks that the peer has received twice before, and
// blocks that it cancels when they are already on the way.
//
// A peer that behaves does both at times. After a piece with a wrong hash it fetches the blocks of that piece
// again, and hosts that send wrong blocks can make most of its pieces wrong. A block that it requested from
// two peers is cancelled at the slower one. So the first repetition of a block is not counted, and a peer
// wastes only if more than half of its latest blocks are wasted. A peer that repeats more than about 250 MiB
// in turn is not noticed: so much a reader with a small cache may fetch again.
//
// Used on the network thread only.
#pragma once

#include <cstdint>
#include <vector>

namespace silmaril {

class Waste {
public:
    // `blocks`: of the torrent. `salt`: unknown to the peer.
    Waste(std::int64_t blocks, std::uint32_t salt) : m_blocks(blocks), m_salt(salt) {}

    // A block was sent. True if the peer wastes; then the counts begin again.
    bool sent(std::int64_t block);
    // The peer cancelled a block that is on the way or was sent. The same result.
    bool cancelled();

private:
    bool is_repeated(std::int64_t block);
    bool judge();
    std::size_t place_of(std::int64_t block) const;

    std::int64_t const m_blocks;
    std::uint32_t const m_salt;
    // The latest blocks that were sent: their number plus one, and a bit for a block that was sent again.
    // Empty before the first block.
    std::vector<std::uint64_t> m_latest;
    int m_sent = 0;  // of the latest blocks
    int m_wasted = 0;
};

}  // namespace silmaril
