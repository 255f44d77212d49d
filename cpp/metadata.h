// Which peer is asked for the info dictionary of a magnet link, and for which block of it (BEP 9).
//
// Each peer is asked for the whole dictionary, and its blocks are kept apart from those of other peers, so a
// dictionary that does not have the right hash is the fault of one peer. The size that a peer announces
// counts for this peer alone. Two peers are asked at first, and twice as many after each second without
// success, up to a bound. A peer that sends nothing, or is slow while others wait, loses its turn. For the
// network thread alone. It knows no connection of libtorrent.
#pragma once

#include <cstdint>
#include <functional>
#include <libtorrent/address.hpp>
#include <libtorrent/span.hpp>
#include <map>
#include <set>
#include <vector>

#include "guard.h"

namespace silmaril {

// The longest info dictionary that is accepted, in bytes: that of about 100 000 files.
constexpr std::int64_t max_metadata = 16 << 20;

// One connection, as far as the choice depends on it.
class MetadataSource {
public:
    virtual ~MetadataSource() = default;
    virtual lt::address group() const = 0;
    // Sends a request for a block.
    virtual void ask(int block) = 0;
    // Ends the connection. `wrong`: the peer sent or announced something false, and is remembered.
    virtual void end(bool wrong) = 0;
};

class MetadataFetch {
public:
    // `take`: checks the hash of an info dictionary; true when it is the right one, which ends the fetch.
    explicit MetadataFetch(std::function<bool(std::vector<char> const&)> take) : m_take(std::move(take)) {}

    // A peer announces that it has a dictionary of so many bytes; 0 or less: that it has none.
    void announced(MetadataSource& source, std::int64_t size, Clock::time_point now);
    // A block has arrived. `total`: the size of the dictionary, 0 where the message does not contain it.
    void received(MetadataSource& source, std::int64_t block, std::int64_t total, lt::span<char const> bytes,
                  Clock::time_point now);
    // The peer refuses to send a block.
    void rejected(MetadataSource& source, std::int64_t block, Clock::time_point now);
    // The connection has ended.
    void left(MetadataSource& source);
    // To be called once a second.
    void tick(Clock::time_point now);

private:
    struct State {
        std::int64_t size = 0;
        std::uint64_t order = 0;  // of announcements
        int turns = 0;            // begun so far
        int silent_turns = 0;     // of these, without any block
        int rejects = 0;
        bool active = false;
        Clock::time_point begun{};     // the turn
        Clock::time_point progress{};  // the last block
        Clock::time_point not_before{};
        std::vector<std::vector<char>> blocks;
        std::size_t received = 0;  // of the blocks
        std::size_t next = 0;      // the first one that was not requested
        std::set<std::int64_t> requested;
    };
    using Sources = std::map<MetadataSource*, State>;

    static std::size_t blocks_of(std::int64_t size);
    void begin_turns(Clock::time_point now);
    Sources::iterator choose(Clock::time_point now);
    void request_more(Sources::iterator source);
    void end_turn(State& state);
    // Ends the turn of the peer that has sent least.
    void end_least(Clock::time_point now);
    // Ends its connection, and prefers hosts of other groups from now on.
    void drop(MetadataSource& source, bool wrong);
    void finish(MetadataSource& source, Clock::time_point now);
    void succeed(std::int64_t size);

    std::function<bool(std::vector<char> const&)> const m_take;
    Sources m_sources;
    std::map<lt::address, int> m_failures;  // by address group
    std::uint64_t m_order = 0;
    std::size_t m_allowed = 2;  // active sources at a time
    int m_ended_turns = 0;
    std::size_t m_kept = 0;  // bytes of the blocks of all sources
    bool m_done = false;
};

}  // namespace silmaril
