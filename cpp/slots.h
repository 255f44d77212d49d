// Who holds the connections of one torrent, and which one ends when there are too many.
//
// Two rules. One address group (guard.h) holds at most half of the slots while none of its peers is proven.
// When all slots are in use, a connection that never transferred data ends first: of the group that holds the
// most, the oldest. A host whose connection ended for that reason cannot replace another one for a minute, so
// that silent hosts do not take turns. For the network thread alone.
#pragma once

#include <libtorrent/address.hpp>
#include <map>
#include <vector>

#include "guard.h"

namespace silmaril {

// A connection, as far as the choice depends on it.
class Slot {
public:
    virtual ~Slot() = default;
    virtual lt::address group() const = 0;
    // The local network, and hosts that the user named: no limit of a group holds.
    virtual bool is_exempt() const = 0;
    virtual bool is_proven() const = 0;
    virtual bool has_transferred() const = 0;
    // It has ended, or is about to.
    virtual bool is_over() const = 0;
};

class Slots {
public:
    // In the order of arrival.
    void add(Slot* slot) { m_slots.push_back(slot); }
    void remove(Slot* slot);
    // Calls `visit` with each; it must not add or remove any.
    template <typename Visit>
    void each(Visit&& visit) const {
        for (auto* slot : m_slots) visit(slot);
    }
    // The first one that matches; null if none does.
    template <typename Matches>
    Slot* find(Matches&& matches) const {
        for (auto* slot : m_slots)
            if (matches(slot)) return slot;
        return nullptr;
    }

    // The connection that has to end because the group of `newcomer`, which is one of the slots, holds more
    // than half of `limit`; `newcomer` itself where no other one may end. None if it does not.
    Slot* beyond_group(Slot* newcomer, int limit, Clock::time_point now);
    // All slots are in use: the connection that ends in favour of `newcomer`, or `newcomer` itself. None to
    // leave the choice to libtorrent: every other connection has transferred data.
    Slot* replaced_by(Slot* newcomer, Clock::time_point now);

private:
    bool replaced_lately(lt::address const& group, Clock::time_point now) const;
    void remember(lt::address const& group, Clock::time_point now);

    std::vector<Slot*> m_slots;
    std::map<lt::address, Clock::time_point> m_replaced;
};

}  // namespace silmaril
