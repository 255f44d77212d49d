#include "rumours.h"

#include <algorithm>

#include "guard.h"

namespace silmaril {

namespace {

constexpr int first_calls = 3;
constexpr auto first_wait = std::chrono::minutes(10);
constexpr auto longest_wait = std::chrono::hours(24);

// How long no limit applies to a peer that has answered.
constexpr auto trusted_for = std::chrono::hours(1);

// The wait after this many calls.
Clock::duration wait_after(int const calls) {
    if (calls < first_calls) return {};
    // 2^8 times the first wait is longer than a day.
    return std::min<Clock::duration>(longest_wait, first_wait * (1 << std::min(calls - first_calls, 8)));
}

}  // namespace

bool Rumours::call(Called const& to, Clock::time_point const now) {
    auto const* const answer = m_answers.find(to.second);
    if (answer && now - *answer < trusted_for) return true;
    auto const* const known = m_calls.find(to);
    if (known && now < known->next) return false;
    // A call needs a token of both buckets. If one bucket has none, the other one must not lose any.
    if (!m_all.has(now)) return false;
    if (!m_groups.use(group_address(to.second.address())).calls.spend(now)) return false;
    m_all.spend(now);
    auto& calls = m_calls.use(to);
    ++calls.count;
    calls.next = now + wait_after(calls.count);
    return true;
}

void Rumours::answered(Called const& from, Clock::time_point const now) {
    forget(from);
    m_answers.use(from.second) = now;
}

void Rumours::forget(Called const& to) {
    m_calls.erase(to);
    m_groups.erase(group_address(to.second.address()));
}

}  // namespace silmaril
