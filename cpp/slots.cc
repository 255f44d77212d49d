#include "slots.h"

#include <tuple>

namespace silmaril {

namespace {

constexpr auto remember_for = std::chrono::seconds(60);
constexpr std::size_t max_remembered = 1024;

// A group that has not connected again for this time waits no longer.
constexpr auto patience = std::chrono::seconds(90);
constexpr std::size_t max_waiting = 4096;

bool is_stranger(Slot const* slot) { return !slot->is_exempt() && !slot->is_outgoing(); }

// The most worth that a newcomer may replace. `called`: connections that this node opened, with the newcomer.
Worth most_replaced(Slot const* newcomer, int called, int limit) {
    if (newcomer->is_named()) return Worth::active;
    return newcomer->is_outgoing() && called <= reserved(limit) ? Worth::verified : Worth::idle;
}

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

// The connection to close because the group of `newcomer` has too many; null if it is within its limit.
Slot* Slots::beyond_group(Slot* newcomer, Room const& room, Clock::time_point now) {
    auto const group = newcomer->group();
    int held = 0;
    Slot* least = nullptr;
    for (auto* slot : m_slots) {
        if (is_over(slot) || !is_stranger(slot) || slot->worth() >= Worth::verified || slot->group() != group)
            continue;
        ++held;
        bool const replaceable = slot != newcomer && slot->worth() <= Worth::idle;
        if (replaceable && (!least || slot->worth() < least->worth())) least = slot;
    }
    if (held <= std::max(1, room.limit / 2 >> std::min(room.offences, 16))) return nullptr;
    // Behind the address of an offender, hosts that behave keep their connections.
    if (!least || room.offences > 0) return newcomer;
    remember(group, now);
    return least;
}

bool Slots::is_full(Slot const* newcomer, Room const& room) const {
    int open = 0;
    int strangers = 0;
    for (auto const* slot : m_slots) {
        if (is_over(slot) || slot->is_pending()) continue;
        ++open;
        strangers += is_stranger(slot);
    }
    bool const reserve = room.incomplete && is_stranger(newcomer);
    return open > room.limit || (reserve && strangers > room.limit - reserved(room.limit));
}

// The connection to close in favour of `newcomer`; null if there is none.
Slot* Slots::choose(Slot* newcomer, Room const& room, Clock::time_point now) {
    std::map<lt::address, int> held;
    int called = 0;
    for (auto const* slot : m_slots) {
        if (is_over(slot) || slot->is_pending()) continue;
        ++held[slot->group()];
        called += slot->is_outgoing();
    }
    auto const most = most_replaced(newcomer, called, room.limit);
    bool const stranger = is_stranger(newcomer);
    bool const invited = newcomer->is_named() || newcomer->is_outgoing();
    // A host that was silent before must not replace another one that may be about to send.
    if (stranger && replaced_lately(newcomer->group(), now)) return nullptr;
    auto const may_replace = [&](Slot const* slot) {
        if (slot == newcomer || is_over(slot) || slot->is_pending()) return false;
        auto const worth = slot->worth();
        // A peer of the local network keeps its slot against strangers, but not against peers that this node
        // wants.
        if (slot->is_named()) return newcomer->is_named() && worth <= Worth::idle;
        if (slot->is_exempt()) return (newcomer->is_exempt() || invited) && worth <= Worth::idle;
        if (worth <= most) return invited || !slot->is_outgoing() || called > reserved(room.limit);
        return stranger && is_stranger(slot) && worth < Worth::verified &&
               held[slot->group()] > held[newcomer->group()] + 1;
    };
    Slot* chosen = nullptr;
    // Earlier is closed first.
    auto const order = [&held](Slot const* slot) {
        return std::make_tuple(slot->is_exempt(), slot->worth(), -held[slot->group()]);
    };
    for (auto* slot : m_slots)
        if (may_replace(slot) && (!chosen || order(slot) < order(chosen))) chosen = slot;
    if (!chosen && !invited && held[newcomer->group()] <= 1) chosen = next_turn(newcomer, room, now);
    if (chosen && !chosen->is_exempt()) remember(chosen->group(), now);
    return chosen;
}

// How many groups have waited for a slot longer than this one. From now on this group waits too.
std::size_t Slots::waiting_before(lt::address const& group, Clock::time_point now) {
    for (auto entry = m_waiting.begin(); entry != m_waiting.end();)
        entry = now - entry->second.last > patience ? m_waiting.erase(entry) : std::next(entry);
    if (m_waiting.size() >= max_waiting && m_waiting.count(group) == 0) return max_waiting;
    auto& own = m_waiting.try_emplace(group, Waiting{now, now}).first->second;
    own.last = now;
    auto const earlier = [&own](auto const& entry) { return entry.second.since < own.since; };
    return std::size_t(std::count_if(m_waiting.begin(), m_waiting.end(), earlier));
}

// The connection whose turn has ended in favour of `newcomer`; null if there is none, or if the slots of all
// such connections are left to groups that have waited longer.
Slot* Slots::next_turn(Slot const* newcomer, Room const& room, Clock::time_point now) {
    // A complete torrent has no use for peers that send data.
    auto const most = room.incomplete ? Worth::served : Worth::verified;
    std::size_t due = 0;
    Slot* chosen = nullptr;
    for (auto* slot : m_slots) {
        bool const local = newcomer->is_exempt() && !slot->is_named() && !slot->is_outgoing();
        if (slot == newcomer || is_over(slot) || !(is_stranger(slot) || local)) continue;
        if (slot->worth() > most || now - slot->opened() < turn) continue;
        ++due;
        if (!chosen || slot->worth() < chosen->worth()) chosen = slot;
    }
    if (waiting_before(newcomer->group(), now) >= due) return nullptr;
    m_waiting.erase(newcomer->group());
    return chosen;
}

Slot* Slots::admit(Slot* newcomer, Room const& room, Clock::time_point now) {
    auto* chosen = is_stranger(newcomer) ? beyond_group(newcomer, room, now) : nullptr;
    if (!chosen && is_full(newcomer, room)) {
        chosen = choose(newcomer, room, now);
        // For an incoming connection libtorrent asks again (`replaced_by`), and may then choose itself.
        if (!chosen && (!newcomer->is_named() || newcomer->is_outgoing())) chosen = newcomer;
    }
    if (chosen) m_closing.insert(chosen);
    return chosen;
}

Slot* Slots::replaced_by(Slot* newcomer, Room const& room, Clock::time_point now) {
    if (m_closing.count(newcomer) != 0) return newcomer;
    Slot* attempt = nullptr;
    int attempts = 0;
    for (auto* slot : m_slots) {
        if (slot->is_over()) continue;
        if (m_closing.count(slot) != 0) return slot;
        if (!slot->is_pending()) continue;
        ++attempts;
        if (!attempt) attempt = slot;
    }
    // Attempts that have not completed: all but a few make room, the oldest first.
    if (attempts > reserved(room.limit)) return attempt;
    auto* const chosen = choose(newcomer, room, now);
    return chosen || newcomer->is_named() ? chosen : newcomer;
}

}  // namespace silmaril
