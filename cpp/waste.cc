#include "waste.h"

#include <algorithm>

namespace silmaril {

namespace {

// Blocks that are remembered: 256 MiB of a torrent, 128 KiB of memory for a peer.
constexpr std::int64_t max_latest = 16 * 1024;

// A peer is judged by its last 512 to 1024 blocks.
constexpr int window = 1024;

// Fewer wasted blocks never count: 1 MiB.
constexpr int least = 64;

constexpr std::uint64_t again = std::uint64_t(1) << 63;

}  // namespace

std::size_t Waste::place_of(std::int64_t block) const {
    // A small torrent has a place for each block. In a large one the peer must not know which blocks share
    // one.
    if (m_blocks <= max_latest) return std::size_t(block);
    auto mixed = (std::uint64_t(block) ^ m_salt) * 0x9e3779b97f4a7c15;
    mixed = (mixed ^ mixed >> 32 ^ std::uint64_t(m_salt) << 16) * 0xbf58476d1ce4e5b9;
    return std::size_t(mixed >> 50);  // 14 bits
}

// Remembers the block. True if the peer has received it twice before.
bool Waste::is_repeated(std::int64_t block) {
    if (m_latest.empty()) m_latest.resize(std::size_t(std::min(m_blocks, max_latest)));
    auto& entry = m_latest[place_of(block)];
    auto const number = std::uint64_t(block) + 1;
    bool const repeated = (entry & again) != 0;
    if ((entry & ~again) == number) {
        entry |= again;
        return repeated;
    }
    entry = number;
    return false;
}

bool Waste::sent(std::int64_t block) {
    if (block < 0 || block >= m_blocks) return false;
    ++m_sent;
    if (is_repeated(block)) ++m_wasted;
    return judge();
}

bool Waste::cancelled() {
    ++m_wasted;
    return judge();
}

bool Waste::judge() {
    bool const wastes = m_wasted >= least && m_wasted * 2 > m_sent;
    if (wastes) m_sent = m_wasted = 0;
    if (m_sent >= window) {
        m_sent /= 2;
        m_wasted /= 2;
    }
    return wastes;
}

}  // namespace silmaril
