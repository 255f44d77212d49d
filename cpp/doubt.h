// The bytes of a torrent that were proved once but must be proved again before they are sent, because a
// program may have changed them on the disk. Safe to use from any thread.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <libtorrent/address.hpp>
#include <list>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

namespace silmaril {

class Doubt {
public:
    using Clock = std::chrono::steady_clock;

    // For a torrent of `length` bytes. Bytes are doubted in units of `unit` bytes.
    Doubt(std::int64_t length, int unit);

    int unit() const { return m_unit; }

    // Marks these bytes as in doubt, or as proved again.
    void raise(std::int64_t from, std::int64_t to);
    void clear(std::int64_t from, std::int64_t to);
    // Whether some of the bytes are in doubt.
    bool covers(std::int64_t from, std::int64_t to) const;

    // A peer requests a block. If the peer has requested the block before, perhaps over another connection,
    // the bytes that it received may have been wrong: the block is in doubt. The number per second is
    // bounded, so that peers cannot make this host hash all the time.
    void requested(lt::address const& peer, std::int64_t piece, int block, std::int64_t from, std::int64_t to,
                   Clock::time_point now);

private:
    using Key = std::pair<lt::address, std::int64_t>;
    struct PieceRequests {
        std::vector<bool> blocks;
        std::list<Key>::iterator position;
    };
    std::size_t first(std::int64_t from) const { return std::size_t(from / m_unit); }
    std::size_t last(std::int64_t to) const { return std::size_t((to + m_unit - 1) / m_unit); }
    void set(std::int64_t from, std::int64_t to, bool value);

    std::int64_t const m_length;
    int const m_unit;
    std::atomic<bool> m_any{false};
    mutable std::mutex m_mutex;  // guards all below
    std::vector<bool> m_units;   // empty until some byte is in doubt
    std::map<Key, PieceRequests> m_requests;
    std::list<Key> m_by_use;  // most recently used first
    Clock::time_point m_second;
    int m_raised = 0;  // blocks that requests put in doubt in the second that began at m_second
};

}  // namespace silmaril
