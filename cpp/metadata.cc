#include "metadata.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace silmaril {

namespace {

// BEP 9.
constexpr std::int64_t block_length = 16 * 1024;

// Most peers that are asked at a time, and most bytes that are stored of their blocks. Over the latter, the
// peer that has sent the fewest blocks loses its turn.
constexpr std::size_t max_active = 8;
constexpr std::size_t max_kept = 32 << 20;

// Most pending requests to one peer. Some clients refuse more.
constexpr std::size_t max_requests = 8;

// A peer that sends no block for this time loses its turn.
constexpr auto max_silence = std::chrono::seconds(2);

// How long a turn may take while other peers wait. Doubles after every eight turns without success, so that a
// slow honest peer can finish.
constexpr auto max_turn = std::chrono::seconds(4);
constexpr int turns_per_doubling = 8;
constexpr int max_doublings = 6;

// The number of turns without a block, and of refused requests, after which a peer is disconnected.
constexpr int max_silent_turns = 3;
constexpr int max_rejects = 8;

// How long a peer that refused a request gets no requests; multiplied by the number of its refusals.
constexpr auto reject_pause = std::chrono::seconds(1);

// Most address groups whose failures are counted.
constexpr std::size_t max_groups = 1024;

}  // namespace

std::size_t MetadataFetch::blocks_of(std::int64_t size) {
    return std::size_t((size + block_length - 1) / block_length);
}

void MetadataFetch::announced(MetadataSource& source, std::int64_t size, Clock::time_point now) {
    if (m_done) return;
    auto const found = m_sources.find(&source);
    // The hash fixes the dictionary, so its size cannot change.
    bool const contradicts = found != m_sources.end() && found->second.size != size;
    if (contradicts || size > max_metadata) {
        drop(source, true);
    } else if (found == m_sources.end() && size > 0) {
        auto& state = m_sources[&source];
        state.size = size;
        state.order = ++m_order;
    }
    begin_turns(now);
}

MetadataFetch::Sources::iterator MetadataFetch::choose(Clock::time_point now) {
    std::map<lt::address, int> active;
    for (auto const& [source, state] : m_sources)
        if (state.active) ++active[source->group()];
    // Peers of hosts without failures come first.
    auto const rank = [&](MetadataSource const& source, SourceState const& state) {
        auto const group = source.group();
        auto const failures = m_failures.find(group);
        int const count = active[group] + (failures == m_failures.end() ? 0 : failures->second);
        return std::make_tuple(count, state.turns, state.order);
    };
    auto chosen = m_sources.end();
    for (auto source = m_sources.begin(); source != m_sources.end(); ++source) {
        auto const& state = source->second;
        if (state.active || state.not_before > now) continue;
        if (chosen == m_sources.end() || rank(*source->first, state) < rank(*chosen->first, chosen->second))
            chosen = source;
    }
    return chosen;
}

void MetadataFetch::begin_turns(Clock::time_point now) {
    while (!m_done) {
        auto const active = std::count_if(m_sources.begin(), m_sources.end(),
                                          [](auto const& source) { return source.second.active; });
        if (std::size_t(active) >= m_allowed) return;
        auto const chosen = choose(now);
        if (chosen == m_sources.end()) return;
        auto& state = chosen->second;
        state.active = true;
        ++state.turns;
        state.begun = state.progress = now;
        state.blocks.resize(blocks_of(state.size));
        request_more(chosen);
    }
}

void MetadataFetch::request_more(Sources::iterator source) {
    auto& state = source->second;
    while (state.requested.size() < max_requests && state.next < state.blocks.size()) {
        auto const block = state.next++;
        state.requested.insert(std::int64_t(block));
        source->first->ask(int(block));
    }
}

void MetadataFetch::end_turn(SourceState& state) {
    state.active = false;
    for (auto const& block : std::exchange(state.blocks, {})) m_kept -= block.size();
    state.received = state.next = 0;
    state.requested.clear();
}

void MetadataFetch::received(MetadataSource& source, std::int64_t block, std::int64_t total,
                             lt::span<char const> bytes, Clock::time_point now) {
    auto const found = m_sources.find(&source);
    if (m_done || found == m_sources.end()) return;
    auto& state = found->second;
    // The block arrived after the end of the turn.
    if (!state.active || state.requested.erase(block) == 0) return;
    auto const length = std::min(block_length, state.size - block * block_length);
    if ((total != 0 && total != state.size) || bytes.size() != length) {
        drop(source, true);
        begin_turns(now);
        return;
    }
    state.blocks[std::size_t(block)].assign(bytes.begin(), bytes.end());
    m_kept += std::size_t(bytes.size());
    state.progress = now;
    if (++state.received == state.blocks.size()) {
        finish(source, now);
        return;
    }
    request_more(found);
    if (m_kept > max_kept) end_slowest(now);
}

void MetadataFetch::end_slowest(Clock::time_point now) {
    auto least = m_sources.end();
    for (auto source = m_sources.begin(); source != m_sources.end(); ++source) {
        auto const& state = source->second;
        if (!state.active || state.received == 0) continue;
        if (least == m_sources.end() || state.received < least->second.received) least = source;
    }
    if (least == m_sources.end()) return;
    end_turn(least->second);
    begin_turns(now);
}

void MetadataFetch::finish(MetadataSource& source, Clock::time_point now) {
    auto& state = m_sources.at(&source);
    auto const size = state.size;
    std::vector<char> whole;
    whole.reserve(std::size_t(size));
    for (auto const& block : state.blocks) whole.insert(whole.end(), block.begin(), block.end());
    end_turn(state);
    if (m_accept(whole)) {
        succeed(size);
        return;
    }
    drop(source, true);
    begin_turns(now);
}

void MetadataFetch::succeed(std::int64_t size) {
    m_done = true;
    std::vector<MetadataSource*> wrong;
    for (auto const& [source, state] : m_sources)
        if (state.size != size) wrong.push_back(source);
    m_sources.clear();
    for (auto* const source : wrong) source->end(true);
}

void MetadataFetch::rejected(MetadataSource& source, std::int64_t block, Clock::time_point now) {
    auto const found = m_sources.find(&source);
    if (m_done || found == m_sources.end()) return;
    auto& state = found->second;
    if (!state.active || state.requested.count(block) == 0) return;
    end_turn(state);
    state.not_before = now + reject_pause * ++state.rejects;
    if (state.rejects >= max_rejects) drop(source, false);
    begin_turns(now);
}

void MetadataFetch::left(MetadataSource& source) {
    auto const found = m_sources.find(&source);
    if (found == m_sources.end()) return;
    if (found->second.active) end_turn(found->second);
    m_sources.erase(found);
    begin_turns(Clock::now());
}

void MetadataFetch::drop(MetadataSource& source, bool wrong) {
    auto const group = source.group();
    if (m_failures.size() < max_groups || m_failures.count(group)) ++m_failures[group];
    auto const found = m_sources.find(&source);
    if (found != m_sources.end()) {
        if (found->second.active) end_turn(found->second);
        m_sources.erase(found);
    }
    source.end(wrong);
}

void MetadataFetch::tick(Clock::time_point now) {
    if (m_done) return;
    bool const waiting = std::any_of(m_sources.begin(), m_sources.end(), [now](auto const& source) {
        return !source.second.active && source.second.not_before <= now;
    });
    auto const longest = max_turn * (1 << std::min(m_ended_turns / turns_per_doubling, max_doublings));
    std::vector<MetadataSource*> silent;
    bool tried = false;
    for (auto& [source, state] : m_sources) {
        if (!state.active) continue;
        tried = true;
        bool const quiet = now - state.progress > max_silence;
        if (!quiet && !(waiting && now - state.begun > longest)) continue;
        if (quiet && state.received == 0 && ++state.silent_turns >= max_silent_turns)
            silent.push_back(source);
        ++m_ended_turns;
        end_turn(state);
    }
    for (auto* const source : silent) drop(*source, false);
    if (tried) m_allowed = std::min(2 * m_allowed, max_active);
    begin_turns(now);
}

}  // namespace silmaril
