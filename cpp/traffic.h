// Whether a connection has transferred data lately: in the last half minute to minute.
#pragma once

#include <cstdint>
#include <utility>

#include "guard.h"

namespace silmaril {

class Traffic {
public:
    // Must be called once a second, with the bytes of all time.
    void tick(std::int64_t received, std::int64_t sent, Clock::time_point now) {
        m_now = {received, sent};
        if (now - m_since < window) return;
        m_since = now;
        m_before = std::exchange(m_middle, m_now);
    }
    bool received() const { return m_now.first - m_before.first >= least; }
    bool sent() const { return m_now.second - m_before.second >= least; }

private:
    static constexpr auto window = std::chrono::seconds(30);
    // 16 blocks. With less, a connection is idle.
    static constexpr std::int64_t least = 256 * 1024;

    using Bytes = std::pair<std::int64_t, std::int64_t>;
    Bytes m_now{};
    Bytes m_middle{};  // when the current window began
    Bytes m_before{};  // when the window before it began
    Clock::time_point m_since{};
};

}  // namespace silmaril
