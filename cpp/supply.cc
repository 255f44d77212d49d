#include "supply.h"

#include <algorithm>

namespace silmaril {

namespace {

constexpr int last_idle = 32;

}  // namespace

void Supply::tick(Second const& second) {
    auto const last = m_last;
    m_last = second;
    m_measures = false;
    // What came in a part of a second is less than they can send.
    bool const whole = last.seeds_asked && second.seeds_asked;
    m_seeds = std::max(second.from_seeds, whole ? m_seeds * 3 / 4 : m_seeds);
    if (!last.readers_asked || !second.readers_asked) {
        m_few = false;
        m_idle = 0;
        return;
    }
    m_few = second.from_readers * 3 < m_seeds * 2;
    if (m_few) m_longest = first_idle;
    m_idle = whole ? 0 : m_idle + 1;
    if (m_idle < m_longest) return;
    m_idle = 0;
    m_longest = std::min(2 * m_longest, last_idle);
    m_measures = true;
}

}  // namespace silmaril
