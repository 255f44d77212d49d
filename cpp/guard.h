// Records the cost of hosts for this session, by address group, and the peers that broke a rule.
//
// A peer that broke a rule is refused for 10 minutes. No rule refuses an address: an honest host may have the
// same one, and may even have the same peer id. In addition each offence reduces how many connections the
// group may open (slots.h), because a peer can choose a new id.
//
// A group contains the addresses that one host can easily have: an IPv4 address, or an IPv6 network of 64
// bits. A peer counts for its group only until it has delivered verified data. Loopback, the local network
// and hosts that the user named never count. Used on the network thread only.
#pragma once

#include <chrono>
#include <cstdint>
#include <libtorrent/address.hpp>
#include <libtorrent/peer_id.hpp>
#include <libtorrent/socket.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "bucket.h"
#include "rumours.h"

namespace silmaril {

constexpr auto first_waste_penalty = std::chrono::seconds(30);

// Penalties of address groups: each lasts twice as long as the one before. After ten minutes without a new
// one a group is forgotten.
class Penalties {
public:
    // `first`: how long the first one lasts. `doublings`: how often that is doubled at most.
    Penalties(std::chrono::seconds first, int doublings) : m_first(first), m_doublings(doublings) {}
    void add(lt::address const& group, Clock::time_point now);
    // When the penalty of the group ends; a time in the past if it has none.
    Clock::time_point end(lt::address const& group) const;

private:
    struct Entry {
        int count = 0;
        Clock::time_point last;
    };
    std::chrono::seconds const m_first;
    int const m_doublings;
    std::map<lt::address, Entry> m_entries;
};

// The first address of an address's group.
lt::address group_address(lt::address const& address);

// Resources that the unproven peers of one address group use together.
struct Group {
    int connections = 0;
    std::int64_t unsent = 0;   // bytes in send buffers
    std::int64_t answers = 0;  // of these, answers to hash requests
    Bucket hash_requests{512, 128};
    Bucket extension_messages{8192, 1024};
};

// The other end of a connection.
struct Remote {
    lt::tcp::endpoint endpoint;
    lt::peer_id id;
    bool called;  // this node opened the connection
};

class Guard {
public:
    // May be called from any thread.
    void trust(lt::address const& host);
    // Whether no group limit applies to the address.
    bool is_exempt(lt::address const& address);

    // Whether the user named the host. Other exempt hosts are on the same network or machine, which need not
    // be friendly.
    bool is_named(lt::address const& address);

    // The group of a peer at this address; null if no group limit applies.
    std::shared_ptr<Group> group_of(lt::address const& address);

    // Remembers for 10 minutes that a peer broke a rule, and counts an offence of its group. A peer that this
    // node called is known by its address and port, because any peer can copy its id; other peers are known
    // by address and id.
    void remember(Remote const& peer, Clock::time_point now);
    bool remembers(Remote const& peer, Clock::time_point now) const;
    // Records that a peer at this address sent wrong data. Its group may not connect again for a second, then
    // for two, and so on up to 64 seconds. After ten minutes without wrong data the next wait is a second
    // again. Open connections, and those that this node opens, are not affected.
    void lied(lt::address const& address, Clock::time_point now);
    bool must_wait(lt::address const& address, Clock::time_point now);
    // Records that a peer at this address wastes upload (waste.h). Returns when its penalty ends: after 30 s,
    // or later if its group has wasted before. New connections of the group have the penalty too; open ones
    // do not.
    Clock::time_point wasted(lt::address const& address, Clock::time_point now);
    // When the penalty ends that a new connection from this address has.
    Clock::time_point waste_ends(lt::address const& address);
    // Offences of an address's group in the last 10 minutes, at most 16. 0 if no group limit applies.
    int offences(lt::address const& address, Clock::time_point now);

    // Calls to hosts that only strangers have named.
    Rumours& rumours() { return m_rumours; }

    // The connections and the bytes that their peers do not take (room.h).
    void count_connection(int change) { m_connections += change; }
    void count_stuck(std::int64_t change) { m_stuck += change; }
    int connections() const { return m_connections; }
    std::int64_t stuck() const { return m_stuck; }

private:
    using Key = std::tuple<lt::address, std::uint16_t, lt::peer_id>;
    static Key key_of(Remote const& peer);
    void count_offence(lt::address const& address, Clock::time_point now);

    int m_connections = 0;
    std::int64_t m_stuck = 0;
    std::mutex m_mutex;  // guards m_trusted
    std::set<lt::address> m_trusted;
    std::map<lt::address, std::weak_ptr<Group>> m_groups;
    std::map<Key, Clock::time_point> m_remembered;  // expiry
    Rumours m_rumours;
    Penalties m_lies{std::chrono::seconds(1), 6};
    Penalties m_wastes{first_waste_penalty, 4};
    std::map<lt::address, std::vector<Clock::time_point>> m_offences;  // the latest, oldest first, by group
};

}  // namespace silmaril
