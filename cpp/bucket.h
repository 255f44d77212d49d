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
    // Whether there is a token.
    bool has(Clock::time_point now) {
        if (m_last != Clock::time_point{}) {
            std::chrono::duration<double> const passed = now - m_last;
            m_tokens = std::min(m_bound, m_tokens + passed.count() * m_per_second);
        }
        m_last = now;
        return m_tokens >= 1;
    }
    // Spends one token; false if there is none.
    bool spend(Clock::time_point now) {
        if (!has(now)) return false;
        m_tokens -= 1;
        return true;
    }

private:
    double const m_bound;
    double const m_per_second;
    double m_tokens;
    Clock::time_point m_last{};
};

}  // namespace silmaril
