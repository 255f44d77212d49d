// The connections of one torrent, and the choice of the one to close if there are too many.
//
// Two rules. One address group (guard.h) has at most half of the slots while none of its peers is proven. If
// all slots are in use, a connection that never transferred data is closed first: the oldest one of the group
// with the most connections. A host whose connection was closed for that reason cannot replace another
// connection for a minute, so that silent hosts do not replace each other in turn. Used on the network thread
// only.
#pragma once

#include <libtorrent/address.hpp>
#include <map>
#include <set>
#include <vector>

#include "guard.h"

namespace silmaril {

// The properties of a connection that the choice needs.
class Slot {
public:
    virtual ~Slot() = default;
    virtual lt::address group() const = 0;
    // True for the local network and for hosts that the user named: no group limit applies.
    virtual bool is_exempt() const = 0;
    virtual bool is_proven() const = 0;
    virtual bool has_transferred() const = 0;
    // The connection is closed or about to be closed.
    virtual bool is_over() const = 0;
};

class Slots {
public:
    // Slots are in the order of `add`.
    void add(Slot* slot) { m_slots.push_back(slot); }
    void remove(Slot* slot);
    // Calls `visit` with each slot. `visit` must not add or remove slots.
    template <typename Visit>
    void each(Visit&& visit) const {
        for (auto* slot : m_slots) visit(slot);
    }
    // The first slot that matches; null if none matches.
    template <typename Matches>
    Slot* find(Matches&& matches) const {
        for (auto* slot : m_slots)
            if (matches(slot)) return slot;
        return nullptr;
    }

    // The connection to close because the group of `newcomer`, which is one of the slots, has more than half
    // of `limit`; `newcomer` itself if no other one may be closed. Null if the group is within its limit.
    Slot* beyond_group(Slot* newcomer, int limit, Clock::time_point now);
    // All slots are in use: the connection to close in favour of `newcomer`, or `newcomer` itself. Null if
    // every other connection has transferred data; then libtorrent chooses.
    Slot* replaced_by(Slot* newcomer, Clock::time_point now);

private:
    // Closed, or chosen to be closed.
    bool is_over(Slot const* slot) const { return slot->is_over() || m_closing.count(slot) != 0; }
    bool replaced_lately(lt::address const& group, Clock::time_point now) const;
    void remember(lt::address const& group, Clock::time_point now);

    std::vector<Slot*> m_slots;
    // Chosen by `beyond_group`. Their connections are closed later; until then several newcomers may arrive.
    std::set<Slot const*> m_closing;
    std::map<lt::address, Clock::time_point> m_replaced;
};

}  // namespace silmaril
