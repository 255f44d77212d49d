// Whether readers send this node so much that seeds need not be asked for what readers have. Pure: no clock,
// no connection. Used on the network thread only.
#pragma once

#include <cstdint>

namespace silmaril {

// The blocks that arrived in a second, and whether blocks are requested when it ends.
struct Second {
    std::int64_t from_readers;  // bytes of blocks
    std::int64_t from_seeds;
    bool readers_asked;
    bool seeds_asked;
};

class Supply {
public:
    // Must be called once a second while another reader is connected.
    void tick(Second const& second);
    // False if all readers together send less than two thirds of what the seeds send when they are asked, and
    // for a second now and then if the seeds are not asked: their rate is measured.
    bool readers_suffice() const { return !m_few && !m_measures; }

private:
    static constexpr int first_idle = 4;

    Second m_last{};
    std::int64_t m_seeds = 0;    // bytes per second when they are asked
    bool m_few = false;          // the readers sent less in the last second
    bool m_measures = false;     // the seeds are asked for a second
    int m_idle = 0;              // seconds in which the seeds were not always asked
    int m_longest = first_idle;  // after so many of them their rate is measured
};

}  // namespace silmaril
