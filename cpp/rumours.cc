#include "rumours.h"

#include <algorithm>

#include "guard.h"

namespace silmaril {

namespace {

constexpr int first_calls = 3;
constexpr auto first_wait = std::chrono::minutes(10);
constexpr auto longest_wait = std::chrono::hours(24);

// How long a peer that has answered is no rumour.
constexpr auto trusted_for = std::chrono::hours(1);

// With 16 calls a second an entry remains for a quarter of an hour, when strangers name as many addresses as
// they can.
constexpr std::size_t max_entries = 16384;

template <typename Key, typename Entry>
Entry& entry_of(std::map<Key, Entry>& entries, Key const& key) {
    auto const known = entries.find(key);
    if (known != entries.end()) return known->second;
    if (entries.size() >= max_entries) {
        auto const by_last = [](auto const& a, auto const& b) { return a.second.last < b.second.last; };
        entries.erase(std::min_element(entries.begin(), entries.end(), by_last));
    }
    return entries[key];
}

// The wait after this many calls.
Clock::duration wait_after(int const calls) {
    if (calls < first_calls) return {};
    // 2^8 times the first wait is longer than a day.
    return std::min<Clock::duration>(longest_wait, first_wait * (1 << std::min(calls - first_calls, 8)));
}

}  // namespace

bool Rumours::call(Called const& to, Clock::time_point const now) {
    auto const answer = m_answers.find(to.second);
    if (answer != m_answers.end() && now - answer->second.last < trusted_for) return true;
    auto const known = m_calls.find(to);
    if (known != m_calls.end() && now < known->second.next) return false;
    // Without a token for all calls the group must not lose one, and the other way around.
    if (!m_all.has(now)) return false;
    auto& group = entry_of(m_groups, group_address(to.second.address()));
    if (!group.calls.spend(now)) return false;
    m_all.spend(now);
    group.last = now;
    auto& calls = entry_of(m_calls, to);
    ++calls.count;
    calls.last = now;
    calls.next = now + wait_after(calls.count);
    return true;
}

void Rumours::answered(Called const& from, Clock::time_point const now) {
    forget(from);
    entry_of(m_answers, from.second).last = now;
}

void Rumours::forget(Called const& to) {
    m_calls.erase(to);
    m_groups.erase(group_address(to.second.address()));
}

}  // namespace silmaril
