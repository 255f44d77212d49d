#include "slots.h"

#include <algorithm>

namespace silmaril {

namespace {
constexpr auto remember_for = std::chrono::seconds(60);
constexpr std::size_t max_remembered = 1024;
}  // namespace

void Slots::remove(Slot* slot) {
    m_slots.erase(std::remove(m_slots.begin(), m_slots.end(), slot), m_slots.end());
    m_closing.erase(slot);
}

bool Slots::replaced_lately(lt::address const& group, Clock::time_point now) const {
    auto const found = m_replaced.find(group);
    return found != m_replaced.end() && now - found->second < remember_for;
}

void Slots::remember(lt::address const& group, Clock::time_point now) {
    if (m_replaced.size() >= max_remembered) {
        auto const by_time = [](auto const& a, auto const& b) { return a.second < b.second; };
        m_replaced.erase(std::min_element(m_replaced.begin(), m_replaced.end(), by_time));
    }
    m_replaced[group] = now;
}

Slot* Slots::beyond_group(Slot* newcomer, int limit, Clock::time_point now) {
    if (newcomer->is_exempt()) return nullptr;
    auto const group = newcomer->group();
    int held = 0;
    Slot* idle = nullptr;
    for (auto* slot : m_slots) {
        if (is_over(slot) || slot->group() != group) continue;
        if (slot->is_proven()) return nullptr;
        ++held;
        if (!idle && slot != newcomer && !slot->has_transferred()) idle = slot;
    }
    if (held <= std::max(1, limit / 2)) return nullptr;
    auto* const chosen = idle ? idle : newcomer;
    m_closing.insert(chosen);
    if (idle) remember(group, now);
    return chosen;
}

Slot* Slots::replaced_by(Slot* newcomer, Clock::time_point now) {
    std::map<lt::address, int> held;
    for (auto const* slot : m_slots)
        if (!is_over(slot)) ++held[slot->group()];
    Slot* chosen = nullptr;
    for (auto* slot : m_slots) {
        if (slot == newcomer || is_over(slot) || slot->has_transferred()) continue;
        if (!chosen || held[slot->group()] > held[chosen->group()]) chosen = slot;
    }
    if (!chosen) return nullptr;
    // A host that was silent before must not replace another one that may be about to send.
    if (replaced_lately(newcomer->group(), now) && !newcomer->is_exempt()) return newcomer;
    remember(chosen->group(), now);
    return chosen;
}

}  // namespace silmaril
