// The cost of hosts for this session, by address group, and the peers that broke a rule.
//
// A group contains the addresses that one host can easily have: an IPv4 address, or an IPv6 network of 64
// bits. A peer counts for its group only until it has delivered verified data. Loopback, the local network
// and hosts that the user named never count. Used on the network thread only.
#pragma once

#include <chrono>
#include <cstdint>
#include <libtorrent/address.hpp>
#include <libtorrent/peer_id.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>

namespace silmaril {

using Clock = std::chrono::steady_clock;

// A number of tokens that grows with time, up to a bound.
class Bucket {
public:
    Bucket(double bound, double per_second) : m_bound(bound), m_per_second(per_second), m_tokens(bound) {}
    // Spends one token; false if there is none.
    bool spend(Clock::time_point now);

private:
    double const m_bound;
    double const m_per_second;
    double m_tokens;
    Clock::time_point m_last{};
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

class Guard {
public:
    // May be called from any thread.
    void trust(lt::address const& host);

    // The group of a peer at this address; null if no group limit applies.
    std::shared_ptr<Group> group_of(lt::address const& address);

    // Remembers for 10 minutes that a peer broke a rule. Other peers behind the same address are not
    // affected.
    void remember(lt::address const& address, lt::peer_id const& peer, Clock::time_point now);
    bool remembers(lt::address const& address, lt::peer_id const& peer, Clock::time_point now);

private:
    std::mutex m_mutex;  // guards m_trusted
    std::set<lt::address> m_trusted;
    std::map<lt::address, std::weak_ptr<Group>> m_groups;
    std::map<std::pair<lt::address, lt::peer_id>, Clock::time_point> m_remembered;  // expiry
};

}  // namespace silmaril
