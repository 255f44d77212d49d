// Which bytes of a torrent are to be proved before they are sent, although they were proved once: something
// may have changed them on the disk since. Safe to use from any thread.
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

    // Of a torrent of `length` bytes, whose hashes each cover `unit` bytes.
    Doubt(std::int64_t length, int unit);

    int unit() const { return m_unit; }

    // These bytes are in doubt, or no longer.
    void raise(std::int64_t from, std::int64_t to);
    void settle(std::int64_t from, std::int64_t to);
    // Whether some of the bytes are in doubt.
    bool holds(std::int64_t from, std::int64_t to) const;

    // A peer requests a block. When it has requested the block before, perhaps over another connection, what
    // it got may have been wrong: the block is in doubt. A bound on how often keeps peers from making this
    // host hash.
    void requested(lt::address const& peer, std::int64_t piece, int block, std::int64_t from, std::int64_t to,
                   Clock::time_point now);

private:
    using Key = std::pair<lt::address, std::int64_t>;
    struct Requests {
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
    std::vector<bool> m_units;   // empty while nothing was ever in doubt
    std::map<Key, Requests> m_requests;
    std::list<Key> m_by_use;  // front: used last
    Clock::time_point m_second;
    int m_raised = 0;  // by requests, in the second that began then
};

}  // namespace silmaril
