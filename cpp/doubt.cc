#include "doubt.h"

#include <algorithm>

namespace silmaril {

namespace {

// Pieces whose requests are remembered. A few are enough, because a peer that received wrong bytes requests
// them again soon.
constexpr std::size_t max_remembered = 512;

// Most blocks that requests put in doubt in one second.
constexpr int max_raised = 16;

}  // namespace

Doubt::Doubt(std::int64_t length, int unit) : m_length(length), m_unit(unit) {}

void Doubt::set(std::int64_t from, std::int64_t to, bool value) {
    to = std::min(to, m_length);
    if (from < 0 || from >= to) return;
    if (m_units.empty()) m_units.resize(last(m_length), false);
    std::fill(m_units.begin() + std::ptrdiff_t(first(from)), m_units.begin() + std::ptrdiff_t(last(to)),
              value);
}

void Doubt::raise(std::int64_t from, std::int64_t to) {
    std::lock_guard const lock(m_mutex);
    set(from, to, true);
    m_any = true;
}

void Doubt::clear(std::int64_t from, std::int64_t to) {
    std::lock_guard const lock(m_mutex);
    set(from, to, false);
}

bool Doubt::covers(std::int64_t from, std::int64_t to) const {
    if (!m_any) return false;
    std::lock_guard const lock(m_mutex);
    to = std::min(to, m_length);
    if (m_units.empty() || from < 0 || from >= to) return false;
    auto const end = m_units.begin() + std::ptrdiff_t(last(to));
    return std::find(m_units.begin() + std::ptrdiff_t(first(from)), end, true) != end;
}

void Doubt::requested(lt::address const& peer, std::int64_t piece, int block, std::int64_t from,
                      std::int64_t to, Clock::time_point now) {
    if (block < 0 || from < 0 || to > m_length) return;
    std::lock_guard const lock(m_mutex);
    Key const key{peer, piece};
    auto const [entry, fresh] = m_requests.try_emplace(key);
    if (fresh) {
        m_by_use.push_front(key);
        entry->second.position = m_by_use.begin();
        if (m_requests.size() > max_remembered) {
            m_requests.erase(m_by_use.back());
            m_by_use.pop_back();
        }
    } else {
        m_by_use.splice(m_by_use.begin(), m_by_use, entry->second.position);
    }
    auto& blocks = entry->second.blocks;
    if (blocks.size() <= std::size_t(block)) blocks.resize(std::size_t(block) + 1, false);
    if (!blocks[std::size_t(block)]) {
        blocks[std::size_t(block)] = true;
        return;
    }
    if (now - m_second >= std::chrono::seconds(1)) {
        m_second = now;
        m_raised = 0;
    }
    if (m_raised >= max_raised) return;
    ++m_raised;
    set(from, to, true);
    m_any = true;
}

}  // namespace silmaril
