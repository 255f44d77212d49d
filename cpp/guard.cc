#include "guard.h"

#include <algorithm>

namespace silmaril {

namespace {

constexpr auto remember_for = std::chrono::minutes(10);
// Over these numbers, expired peers and empty groups are removed. If that is not enough, the oldest peer or
// group is removed.
constexpr std::size_t max_remembered = 4096;
constexpr std::size_t sweep_groups = 1024;
constexpr std::size_t max_offences = 16;

lt::address canonical(lt::address const& address) {
    if (!address.is_v6()) return address;
    auto const v6 = address.to_v6();
    if (v6.is_v4_mapped()) return boost::asio::ip::make_address_v4(boost::asio::ip::v4_mapped, v6);
    return boost::asio::ip::address_v6(v6.to_bytes());  // without a scope
}

bool is_local(lt::address const& address) {
    if (address.is_v4()) {
        auto const bits = address.to_v4().to_uint();
        return bits >> 24 == 127 || bits >> 24 == 10 || bits >> 20 == 0xac1 || bits >> 16 == 0xc0a8 ||
               bits >> 16 == 0xa9fe;
    }
    auto const bytes = address.to_v6().to_bytes();
    bool const unique_local = (bytes[0] & 0xfe) == 0xfc;
    return address.to_v6().is_loopback() || address.to_v6().is_link_local() || unique_local;
}

}  // namespace

lt::address group_address(lt::address const& address) {
    auto const plain = canonical(address);
    // On a local network all hosts have the same upper half.
    if (plain.is_v4() || is_local(plain)) return plain;
    auto bytes = plain.to_v6().to_bytes();
    std::fill(bytes.begin() + 8, bytes.end(), std::uint8_t(0));
    return boost::asio::ip::address_v6(bytes);
}

void Guard::trust(lt::address const& host) {
    std::lock_guard const lock(m_mutex);
    m_trusted.insert(canonical(host));
}

bool Guard::is_named(lt::address const& address) {
    std::lock_guard const lock(m_mutex);
    return m_trusted.count(canonical(address)) != 0;
}

bool Guard::is_exempt(lt::address const& address) {
    return is_local(canonical(address)) || is_named(address);
}

std::shared_ptr<Group> Guard::group_of(lt::address const& address) {
    if (is_exempt(address)) return nullptr;
    if (m_groups.size() >= sweep_groups) {
        for (auto entry = m_groups.begin(); entry != m_groups.end();)
            entry = entry->second.expired() ? m_groups.erase(entry) : std::next(entry);
    }
    auto& known = m_groups[group_address(address)];
    auto group = known.lock();
    if (!group) known = group = std::make_shared<Group>();
    return group;
}

Guard::Key Guard::key_of(Remote const& peer) {
    auto const address = canonical(peer.endpoint.address());
    if (peer.called) return {address, peer.endpoint.port(), lt::peer_id()};
    return {address, std::uint16_t(0), peer.id};
}

void Guard::remember(Remote const& peer, Clock::time_point now) {
    count_offence(peer.endpoint.address(), now);
    if (m_remembered.size() >= max_remembered) {
        for (auto entry = m_remembered.begin(); entry != m_remembered.end();)
            entry = entry->second <= now ? m_remembered.erase(entry) : std::next(entry);
        if (m_remembered.size() >= max_remembered) {
            auto const by_time = [](auto const& a, auto const& b) { return a.second < b.second; };
            m_remembered.erase(std::min_element(m_remembered.begin(), m_remembered.end(), by_time));
        }
    }
    m_remembered[key_of(peer)] = now + remember_for;
}

bool Guard::remembers(Remote const& peer, Clock::time_point now) const {
    auto const found = m_remembered.find(key_of(peer));
    return found != m_remembered.end() && found->second > now;
}

void Penalties::add(lt::address const& group, Clock::time_point now) {
    if (m_entries.size() >= max_remembered && m_entries.count(group) == 0) {
        auto const by_last = [](auto const& a, auto const& b) { return a.second.last < b.second.last; };
        m_entries.erase(std::min_element(m_entries.begin(), m_entries.end(), by_last));
    }
    auto& entry = m_entries[group];
    if (now - entry.last > remember_for) entry.count = 0;
    entry.count = std::min(entry.count + 1, m_doublings + 1);
    entry.last = now;
}

Clock::time_point Penalties::end(lt::address const& group) const {
    auto const found = m_entries.find(group);
    if (found == m_entries.end()) return {};
    return found->second.last + m_first * (1 << (found->second.count - 1));
}

void Guard::lied(lt::address const& address, Clock::time_point now) {
    if (!is_exempt(address)) m_lies.add(group_address(address), now);
}

bool Guard::must_wait(lt::address const& address, Clock::time_point now) {
    return !is_exempt(address) && now < m_lies.end(group_address(address));
}

Clock::time_point Guard::wasted(lt::address const& address, Clock::time_point now) {
    if (is_exempt(address)) return now + first_waste_penalty;
    m_wastes.add(group_address(address), now);
    return m_wastes.end(group_address(address));
}

Clock::time_point Guard::waste_ends(lt::address const& address) {
    return is_exempt(address) ? Clock::time_point() : m_wastes.end(group_address(address));
}

void Guard::count_offence(lt::address const& address, Clock::time_point now) {
    if (is_exempt(address)) return;
    auto const group = group_address(address);
    if (m_offences.size() >= max_remembered && m_offences.count(group) == 0) {
        auto const by_last = [](auto const& a, auto const& b) { return a.second.back() < b.second.back(); };
        m_offences.erase(std::min_element(m_offences.begin(), m_offences.end(), by_last));
    }
    auto& times = m_offences[group];
    if (times.size() >= max_offences) times.erase(times.begin());
    times.push_back(now);
}

int Guard::offences(lt::address const& address, Clock::time_point now) {
    auto const found = m_offences.find(group_address(address));
    if (found == m_offences.end() || is_exempt(address)) return 0;
    auto const late = [now](Clock::time_point at) { return now - at < remember_for; };
    return int(std::count_if(found->second.begin(), found->second.end(), late));
}

}  // namespace silmaril
