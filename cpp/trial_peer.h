// The rules of coordinated reading for one peer with a clock that the caller sets, for simulations.
#pragma once

#include <cstdint>
#include <memory>

#include "claims.h"
#include "pace.h"
#include "rust/cxx.h"
#include "supply.h"

namespace silmaril {

// The claims and the pace of a peer, as a reader knows them. `now`: microseconds since the simulation began,
// never less than in the call before.
class TrialPeer {
public:
    // Records that the peer has announced a piece, or that it lacks some.
    void announced(std::uint64_t now);
    bool reads(std::uint64_t now) const;
    // A message of claims; see Claims.
    void claim(rust::Slice<std::uint8_t const> body, std::int64_t piece_time, std::uint64_t now);
    void kept(std::uint32_t piece, std::uint64_t now);
    rust::Vec<std::uint32_t> claims(std::uint64_t now);

    // The flow: the requests to the peer, the bytes that it has sent, and its rate.
    void tick(std::int32_t requests, std::int64_t received, std::int64_t rate, std::int64_t round_trip,
              std::uint64_t now);
    std::int32_t room(std::int32_t requests, std::int64_t received, std::int64_t rate,
                      std::uint64_t now) const;
    bool is_silent() const { return m_pace.is_silent(); }
    bool is_slow(std::int32_t requests, std::int64_t piece_time) const;
    bool keeps_up(std::int32_t requests, std::int64_t piece_time, std::uint64_t now) const;
    void pause(std::uint64_t now);
    void resume() { m_pace.resume(); }
    std::int64_t came() const { return m_pace.came(); }

private:
    Claims m_claims;
    Pace m_pace;
};

// The supply of a simulated swarm by its readers and its seeds.
class TrialSupply {
public:
    void tick(std::int64_t from_readers, std::int64_t from_seeds, bool readers_asked, bool seeds_asked) {
        m_supply.tick({from_readers, from_seeds, readers_asked, seeds_asked});
    }
    bool readers_suffice() const { return m_supply.readers_suffice(); }

private:
    Supply m_supply;
};

std::unique_ptr<TrialPeer> trial_peer();
std::unique_ptr<TrialSupply> trial_supply();
// The body of a message of claims.
rust::Vec<std::uint8_t> trial_claims(std::uint64_t number, rust::Slice<std::uint32_t const> pieces);
// See choice.h.
std::int64_t trial_patience(std::int32_t readers, std::int64_t piece_time, std::uint64_t random);
std::uint64_t trial_place(std::uint64_t number, std::uint32_t piece);

}  // namespace silmaril
