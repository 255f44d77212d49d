// Tokens that limit a rate.
#pragma once

#include <algorithm>
#include <chrono>

namespace silmaril {

using Clock = std::chrono::steady_clock;

// A number of tokens that grows with time, up to a bound.
class Bucket {
public:
    Bucket(double bound, double per_second) : m_bound(bound), m_per_second(per_second), m_tokens(bound) {}
    // Whether there are so many tokens.
    bool has(Clock::time_point now, double tokens = 1) {
        if (m_last != Clock::time_point{}) {
            std::chrono::duration<double> const passed = now - m_last;
            m_tokens = std::min(m_bound, m_tokens + passed.count() * m_per_second);
        }
        m_last = now;
        return m_tokens >= tokens;
    }
    // Spends tokens; false, and spends none, if there are fewer.
    bool spend(Clock::time_point now, double tokens = 1) {
        if (!has(now, tokens)) return false;
        m_tokens -= tokens;
        return true;
    }

private:
    double const m_bound;
    double const m_per_second;
    double m_tokens;
    Clock::time_point m_last{};
};

}  // namespace silmaril
