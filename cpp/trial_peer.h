// For simulations: the rules of coordinated reading for one peer, with a clock that the caller sets.
#pragma once

#include <cstdint>
#include <memory>

#include "claims.h"
#include "pace.h"
#include "rust/cxx.h"

namespace silmaril {

// The claims and the pace of a peer, as a reader knows them. `now`: microseconds since the simulation began,
// never less than in the call before.
class TrialPeer {
public:
    // The peer has announced a piece, or that it lacks some.
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
    bool delivers(std::int32_t blocks, std::int64_t fastest) const;
    std::int64_t rate() const { return m_pace.rate(); }
    void pause(std::uint64_t now);
    void resume() { m_pace.resume(); }

private:
    Claims m_claims;
    Pace m_pace;
};

std::unique_ptr<TrialPeer> trial_peer();
// The body of a message of claims.
rust::Vec<std::uint8_t> trial_claims(std::uint64_t number, rust::Slice<std::uint32_t const> pieces);
// See choice.h.
std::int64_t trial_patience(std::int32_t readers, std::int64_t piece_time, std::uint64_t random);
std::uint64_t trial_place(std::uint64_t number, std::uint32_t piece);

}  // namespace silmaril
