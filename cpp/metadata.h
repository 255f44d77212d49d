// Fetches the info dictionary of a magnet link (BEP 9): decides which peer gets which request.
//
// Each peer is asked for the whole dictionary, and its blocks are stored separately. So if a dictionary has
// the wrong hash, exactly one peer is at fault. The size that a peer announces is used only for this peer.
// First two peers are asked, and after each second without success twice as many, up to a bound. A peer loses
// its turn if it sends nothing, or if it is slow while other peers wait. Used on the network thread only.
// Does not use libtorrent's connections.
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

// The longest accepted info dictionary, in bytes: enough for about 100 000 files.
constexpr std::int64_t max_metadata = 16 << 20;

// The properties of one connection that the choice needs.
class MetadataSource {
public:
    virtual ~MetadataSource() = default;
    virtual lt::address group() const = 0;
    // Sends a request for a block.
    virtual void ask(int block) = 0;
    // Closes the connection. `wrong`: the peer sent or announced false data, and is remembered.
    virtual void end(bool wrong) = 0;
};

class MetadataFetch {
public:
    // `accept` checks the hash of an info dictionary. If it returns true, the fetch has succeeded.
    explicit MetadataFetch(std::function<bool(std::vector<char> const&)> accept)
        : m_accept(std::move(accept)) {}

    // A peer announces the size of its dictionary in bytes; 0 or less if it has none.
    void announced(MetadataSource& source, std::int64_t size, Clock::time_point now);
    // A block has arrived. `total`: the size of the dictionary, 0 if the message does not contain it.
    void received(MetadataSource& source, std::int64_t block, std::int64_t total, lt::span<char const> bytes,
                  Clock::time_point now);
    // The peer refuses to send a block.
    void rejected(MetadataSource& source, std::int64_t block, Clock::time_point now);
    // The connection has ended.
    void left(MetadataSource& source);
    // Must be called once a second.
    void tick(Clock::time_point now);

private:
    struct SourceState {
        std::int64_t size = 0;
        std::uint64_t order = 0;  // position in the order of announcements
        int turns = 0;            // turns so far
        int silent_turns = 0;     // turns in which no block arrived
        int rejects = 0;
        bool active = false;
        Clock::time_point begun{};     // begin of the turn
        Clock::time_point progress{};  // arrival of the last block
        Clock::time_point not_before{};
        std::vector<std::vector<char>> blocks;
        std::size_t received = 0;  // number of received blocks
        std::size_t next = 0;      // first block that was not requested
        std::set<std::int64_t> requested;
    };
    using Sources = std::map<MetadataSource*, SourceState>;

    static std::size_t blocks_of(std::int64_t size);
    void begin_turns(Clock::time_point now);
    Sources::iterator choose(Clock::time_point now);
    void request_more(Sources::iterator source);
    void end_turn(SourceState& state);
    // Ends the turn of the peer that has sent the fewest blocks.
    void end_slowest(Clock::time_point now);
    // Closes the connection, and counts a failure, so that hosts of other groups are preferred.
    void drop(MetadataSource& source, bool wrong);
    void finish(MetadataSource& source, Clock::time_point now);
    void succeed(std::int64_t size);

    std::function<bool(std::vector<char> const&)> const m_accept;
    Sources m_sources;
    std::map<lt::address, int> m_failures;  // by address group
    std::uint64_t m_order = 0;
    std::size_t m_allowed = 2;  // active sources at a time
    int m_ended_turns = 0;
    std::size_t m_kept = 0;  // bytes of all stored blocks
    bool m_done = false;
};

}  // namespace silmaril
