#include "trial_peer.h"

#include <vector>

#include "choice.h"

namespace silmaril {

namespace {

// A moment of the simulation. The clock of the rules is never at its first moment, which marks what never
// happened.
Clock::time_point moment(std::uint64_t const now) {
    return Clock::time_point(std::chrono::hours(1) + std::chrono::microseconds(now));
}

}  // namespace

void TrialPeer::announced(std::uint64_t const now) { m_pace.announced(moment(now)); }

bool TrialPeer::reads(std::uint64_t const now) const { return m_pace.reads(moment(now)); }

void TrialPeer::claim(rust::Slice<std::uint8_t const> const body, std::int64_t const piece_time,
                      std::uint64_t const now) {
    lt::span<char const> const bytes{reinterpret_cast<char const*>(body.data()), std::ptrdiff_t(body.size())};
    m_claims.replace(bytes, piece_time, moment(now));
}

void TrialPeer::kept(std::uint32_t const piece, std::uint64_t const now) {
    m_claims.kept(piece, moment(now));
}

rust::Vec<std::uint32_t> TrialPeer::claims(std::uint64_t const now) {
    rust::Vec<std::uint32_t> pieces;
    for (auto const piece : m_claims.pieces(moment(now))) pieces.push_back(piece);
    return pieces;
}

void TrialPeer::tick(std::int32_t const requests, std::int64_t const received, std::int64_t const rate,
                     std::int64_t const round_trip, std::uint64_t const now) {
    m_pace.tick({requests, received, rate}, round_trip, moment(now));
}

std::int32_t TrialPeer::room(std::int32_t const requests, std::int64_t const received,
                             std::int64_t const rate, std::uint64_t const now) const {
    return m_pace.room({requests, received, rate}, moment(now));
}

bool TrialPeer::is_slow(std::int32_t const requests, std::int64_t const piece_time) const {
    return m_pace.is_slow(requests, piece_time);
}

bool TrialPeer::keeps_up(std::int32_t const requests, std::int64_t const piece_time,
                         std::uint64_t const now) const {
    return m_pace.keeps_up(requests, piece_time, moment(now));
}

void TrialPeer::pause(std::uint64_t const now) { m_pace.pause(moment(now)); }

std::unique_ptr<TrialPeer> trial_peer() { return std::make_unique<TrialPeer>(); }

std::unique_ptr<TrialSupply> trial_supply() { return std::make_unique<TrialSupply>(); }

rust::Vec<std::uint8_t> trial_claims(std::uint64_t const number,
                                     rust::Slice<std::uint32_t const> const pieces) {
    rust::Vec<std::uint8_t> body;
    for (char const byte : Claims::message(number, std::vector<std::uint32_t>(pieces.begin(), pieces.end())))
        body.push_back(std::uint8_t(byte));
    return body;
}

std::int64_t trial_patience(std::int32_t const readers, std::int64_t const piece_time,
                            std::uint64_t const random) {
    return patience(readers, piece_time, random);
}

std::uint64_t trial_place(std::uint64_t const number, std::uint32_t const piece) {
    return place(number, piece);
}

}  // namespace silmaril
