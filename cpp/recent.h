// A map with a bound: for a new entry the one is dropped that was used the longest time ago.
#pragma once

#include <cstddef>
#include <list>
#include <map>
#include <utility>

namespace silmaril {

template <typename Key, typename Entry>
class Recent {
public:
    // `most`: entries, at least 1.
    explicit Recent(std::size_t most) : m_most(most) {}

    // The entry of the key, which is thereby used; a new one if there is none. Valid until the next call.
    Entry& use(Key const& key) {
        auto const known = m_places.find(key);
        if (known != m_places.end()) {
            m_entries.splice(m_entries.begin(), m_entries, known->second);
            return m_entries.front().second;
        }
        if (m_entries.size() >= m_most) {
            m_places.erase(m_entries.back().first);
            m_entries.pop_back();
        }
        m_entries.emplace_front(key, Entry());
        m_places.emplace(key, m_entries.begin());
        return m_entries.front().second;
    }
    // Null if there is none.
    Entry const* find(Key const& key) const {
        auto const known = m_places.find(key);
        return known == m_places.end() ? nullptr : &known->second->second;
    }
    void erase(Key const& key) {
        auto const known = m_places.find(key);
        if (known == m_places.end()) return;
        m_entries.erase(known->second);
        m_places.erase(known);
    }

private:
    using Entries = std::list<std::pair<Key, Entry>>;  // the latest first
    std::size_t const m_most;
    Entries m_entries;
    std::map<Key, typename Entries::iterator> m_places;
};

}  // namespace silmaril
