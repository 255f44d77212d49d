// The connections of one torrent, and the choice of the one to close if there are too many.
//
// - One address group (guard.h) has at most half of the slots for connections that it opened and whose peers
//   have delivered no verified data. The limit is lower after offences of the group.
// - While the torrent is incomplete, strangers that connect get no reserved slot (`reserved`). Only
//   connections that this node opens get them.
// - If no slot is free, the connection of the least worth is closed: of connections of equal worth, one of
//   the group with the most connections, then the oldest. How much worth may be replaced depends on the
//   newcomer: a host that the user named replaces every stranger, a connection that this node opened replaces
//   every stranger that did not send verified data lately, and any other peer that connects, also one of the
//   local network, replaces only silent and idle ones. Groups with more connections give theirs to groups
//   with fewer.
// - A host whose connection was closed for that reason cannot replace another connection for a minute, so
//   that silent hosts do not replace each other in turn.
// - If strangers hold all slots and each fetches enough, they take turns: a stranger from a group without a
//   connection gets the slot that was held longest, but at least for `turn`. Hosts of the local network take
//   turns with each other and with strangers. Groups that were refused before it come first.
//
// Used on the network thread only.
#pragma once

#include <algorithm>
#include <libtorrent/address.hpp>
#include <map>
#include <set>
#include <vector>

#include "guard.h"

namespace silmaril {

// The value of a connection for this node and the swarm, the least first.
enum class Worth : int {
    silent,    // no data in either direction so far
    idle,      // little data lately, and the peer never sent verified data
    served,    // the peer fetches data
    sends,     // the peer sends data that is not verified yet
    verified,  // the peer has sent verified data
    active     // the peer has sent verified data lately
};

// The properties of a connection that the choice needs.
class Slot {
public:
    virtual ~Slot() = default;
    virtual lt::address group() const = 0;
    // True for the local network and for hosts that the user named: no group limit applies.
    virtual bool is_exempt() const = 0;
    // The user named the host.
    virtual bool is_named() const = 0;
    // This node opened the connection.
    virtual bool is_outgoing() const = 0;
    // This node opened the connection, and the handshakes are not complete.
    virtual bool is_pending() const = 0;
    virtual Worth worth() const = 0;
    virtual Clock::time_point opened() const = 0;
    // The connection is closed or about to be closed.
    virtual bool is_over() const = 0;
};

// How long a stranger that fetches data keeps its slot although other strangers wait for one.
constexpr auto turn = std::chrono::seconds(30);

// How many of `limit` slots strangers that connect do not get.
constexpr int reserved(int limit) { return std::max(1, limit / 8); }

// The slots of a torrent when a peer connects.
struct Room {
    int limit;        // slots, at least 2
    bool incomplete;  // the torrent lacks pieces, so slots are reserved
    int offences;     // of the newcomer's group
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

    // The connection to close because of `newcomer`, which is one of the slots: a peer has connected, or a
    // handshake with a peer that this node called is complete. `newcomer` itself if no other one may be
    // closed; null if there is room. The caller may close the connection later: it is not chosen again.
    Slot* admit(Slot* newcomer, Room const& room, Clock::time_point now);
    // libtorrent has no slot for `newcomer`, which has connected: the connection to close now, or `newcomer`
    // itself. Null if libtorrent must choose, because the user named the hosts of all connections.
    Slot* replaced_by(Slot* newcomer, Room const& room, Clock::time_point now);

private:
    // Closed, or chosen to be closed.
    bool is_over(Slot const* slot) const { return slot->is_over() || m_closing.count(slot) != 0; }
    Slot* beyond_group(Slot* newcomer, Room const& room, Clock::time_point now);
    bool is_full(Slot const* newcomer, Room const& room) const;
    Slot* choose(Slot* newcomer, Room const& room, Clock::time_point now);
    Slot* next_turn(Slot const* newcomer, Room const& room, Clock::time_point now);
    std::size_t waiting_before(lt::address const& group, Clock::time_point now);
    bool replaced_lately(lt::address const& group, Clock::time_point now) const;
    void remember(lt::address const& group, Clock::time_point now);

    std::vector<Slot*> m_slots;
    // Chosen by `admit`. Their connections are closed later; until then several newcomers may arrive.
    std::set<Slot const*> m_closing;
    std::map<lt::address, Clock::time_point> m_replaced;
    // A group that was refused because all slots are in use.
    struct Waiting {
        Clock::time_point since;
        Clock::time_point last;  // its last attempt
    };
    std::map<lt::address, Waiting> m_waiting;
};

}  // namespace silmaril
