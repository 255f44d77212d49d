#include "trial.h"

#include <algorithm>
#include <memory>
#include <string>

#include "choice.h"
#include "claims.h"
#include "gate.h"
#include "layers.h"
#include "offers.h"
#include "silmaril/src/ffi.rs.h"
#include "slots.h"
#include "waste.h"

namespace silmaril {

namespace {

struct Visitor final : Slot {
    Visitor(RawVisitor const& from, Clock::time_point now)
        : address(lt::make_address(std::string(from.address))),
          value(static_cast<Worth>(from.worth)),
          exempt(from.exempt),
          named(from.named),
          called(from.called),
          since(now) {}
    lt::address group() const override { return group_address(address); }
    bool is_exempt() const override { return exempt || named; }
    bool is_named() const override { return named; }
    bool is_outgoing() const override { return called; }
    bool is_pending() const override { return false; }
    Worth worth() const override { return value; }
    Clock::time_point opened() const override { return since; }
    bool is_over() const override { return over; }

    lt::address const address;
    Worth const value;
    bool const exempt;
    bool const named;
    bool const called;
    Clock::time_point const since;
    bool over = false;
};

}  // namespace

std::uint32_t try_gate(rust::Slice<std::uint8_t const> metainfo, rust::Slice<std::uint8_t const> messages) {
    auto const parsed =
        parse_metainfo({reinterpret_cast<char const*>(metainfo.data()), std::ptrdiff_t(metainfo.size())});
    auto proof = std::make_shared<Proof>(parsed.info->orig_files());
    Gate gate(std::make_shared<Guard>(), std::move(proof), lt::make_address("198.51.100.1"));
    lt::span<char const> rest{reinterpret_cast<char const*>(messages.data()),
                              std::ptrdiff_t(messages.size())};
    std::uint32_t passed = 0;
    Load load;
    while (rest.size() >= 5) {
        std::uint32_t length = 0;
        for (int i = 0; i < 4; ++i) length = length << 8 | std::uint8_t(rest[i]);
        bool const ours = length >> 31 != 0;
        length &= 0x7fffffff;
        if (length == 0 || std::int64_t(length) > rest.size() - 4) break;
        int const type = std::uint8_t(rest[4]);
        auto body = rest.subspan(5, std::ptrdiff_t(length) - 1);
        rest = rest.subspan(4 + std::ptrdiff_t(length));
        if (ours) {
            auto const number = [&body](std::ptrdiff_t at) {
                std::uint32_t value = 0;
                for (int i = 0; i < 4; ++i) value = value << 8 | std::uint8_t(body[at + i]);
                return std::int64_t(value);
            };
            if (type == int(MessageType::request) && body.size() == 12)
                gate.requested_block(number(0), number(4));
            else if (auto const range = range_in(body))
                gate.requested(*range);
            continue;
        }
        if (type == int(MessageType::piece)) body = body.first(std::min(body.size(), std::ptrdiff_t(8)));
        std::vector<int> finished;
        auto const verdict = gate.check(type, body, load, Clock::now(), finished);
        load.unsent += std::int64_t(length);
        if (verdict == Gate::Verdict::disconnect) break;
        passed += verdict == Gate::Verdict::pass;
    }
    return passed;
}

rust::Vec<std::uint32_t> try_group(rust::Slice<std::uint8_t const> metainfo,
                                   rust::Vec<RawTrial> const& connections) {
    auto const parsed =
        parse_metainfo({reinterpret_cast<char const*>(metainfo.data()), std::ptrdiff_t(metainfo.size())});
    auto const proof = std::make_shared<Proof>(parsed.info->orig_files());
    auto const guard = std::make_shared<Guard>();
    auto const now = Clock::now();
    std::vector<std::unique_ptr<Gate>> gates;
    rust::Vec<std::uint32_t> passed;
    for (auto const& from : connections) {
        gates.push_back(std::make_unique<Gate>(guard, proof, lt::make_address(std::string(from.address))));
        lt::span<char const> const message{reinterpret_cast<char const*>(from.message.data()),
                                           std::ptrdiff_t(from.message.size())};
        Load load;
        std::uint32_t count = 0;
        for (std::uint32_t i = 0; i < from.times && !message.empty(); ++i) {
            std::vector<int> finished;
            int const type = std::uint8_t(message[0]);
            auto const verdict = gates.back()->check(type, message.subspan(1), load, now, finished);
            if (verdict == Gate::Verdict::disconnect) break;
            count += verdict == Gate::Verdict::pass;
            // An answer is in the send buffer until the peer reads it.
            if (from.reads)
                load.sent += from.answer;
            else if (verdict == Gate::Verdict::pass)
                load.unsent += from.answer;
        }
        passed.push_back(count);
    }
    return passed;
}

rust::Vec<std::int32_t> try_slots(RawRoom const& from, rust::Vec<RawVisitor> const& visitors) {
    Room const room{from.limit, from.incomplete, from.offences};
    Slots slots;
    std::vector<std::unique_ptr<Visitor>> all;
    rust::Vec<std::int32_t> ended;
    auto const begin = Clock::now();
    for (auto const& visitor : visitors) {
        auto const now = begin + std::chrono::seconds(visitor.seconds);
        all.push_back(std::make_unique<Visitor>(visitor, now));
        auto* const newcomer = all.back().get();
        slots.add(newcomer);
        auto const open = std::count_if(all.begin(), all.end(), [](auto const& one) { return !one->over; });
        auto* loser = slots.admit(newcomer, room, now);
        bool const posted = from.ends_late && loser;
        if (open > room.limit && !newcomer->called) loser = slots.replaced_by(newcomer, room, now);
        std::int32_t number = -1;
        for (std::size_t i = 0; i < all.size(); ++i) {
            if (all[i].get() != loser) continue;
            number = std::int32_t(i);
            if (posted) continue;
            all[i]->over = true;
            slots.remove(loser);
        }
        ended.push_back(number);
    }
    return ended;
}

rust::Vec<std::size_t> try_waste(std::int64_t blocks_of_torrent, rust::Vec<std::int64_t> const& blocks) {
    Waste waste(blocks_of_torrent, 1);
    rust::Vec<std::size_t> found;
    for (std::size_t i = 0; i < blocks.size(); ++i)
        if (blocks[i] < 0 ? waste.cancelled() : waste.sent(blocks[i])) found.push_back(i);
    return found;
}

rust::Vec<std::uint32_t> try_lies(rust::Str address, rust::Vec<std::uint32_t> const& moments) {
    auto const peer = lt::make_address(std::string(address));
    Guard guard;
    rust::Vec<std::uint32_t> waits;
    auto const begin = Clock::now();
    for (auto const moment : moments) {
        auto const now = begin + std::chrono::seconds(moment);
        guard.lied(peer, now);
        std::uint32_t seconds = 0;
        while (guard.must_wait(peer, now + std::chrono::seconds(seconds))) ++seconds;
        waits.push_back(seconds);
    }
    return waits;
}

rust::Vec<bool> try_rumours(rust::Vec<RawRumour> const& rumours) {
    Rumours calls;
    rust::Vec<bool> made;
    auto const begin = Clock::now();
    for (auto const& rumour : rumours) {
        lt::tcp::endpoint const to(lt::make_address(std::string(rumour.address)), rumour.port);
        auto const now = begin + std::chrono::seconds(rumour.seconds);
        made.push_back(calls.call({rumour.torrent, to}, now));
        if (rumour.answers) calls.answered({rumour.torrent, to}, now);
    }
    return made;
}

rust::Vec<RawClaimed> try_claims(rust::Vec<RawClaimStep> const& steps) {
    constexpr std::int64_t expected = 1000;
    Claims claims;
    rust::Vec<RawClaimed> claimed;
    auto const begin = Clock::now();
    for (auto const& step : steps) {
        auto const now = begin + std::chrono::milliseconds(step.milliseconds);
        if (step.got >= 0) {
            claims.kept(std::uint32_t(step.got), now);
        } else {
            auto const* const bytes = reinterpret_cast<char const*>(step.message.data());
            claims.replace({bytes, std::ptrdiff_t(step.message.size())}, expected, now);
        }
        RawClaimed after;
        for (auto const piece : claims.pieces(now)) after.pieces.push_back(piece);
        claimed.push_back(std::move(after));
    }
    return claimed;
}

rust::Vec<RawOffer> try_offers(std::int32_t pieces, std::int32_t piece_length,
                               rust::Vec<RawOfferMessage> const& messages) {
    Offers offers(pieces, piece_length);
    auto now = Clock::now();
    for (auto const& message : messages) {
        auto const* const bytes = reinterpret_cast<char const*>(message.body.data());
        now += std::chrono::seconds(1);
        offers.replace({bytes, std::ptrdiff_t(message.body.size())}, now);
    }
    rust::Vec<RawOffer> found;
    for (auto const& [piece, granules] : offers.pieces()) {
        RawOffer offer{piece, {}};
        for (bool const granule : granules) offer.granules.push_back(granule);
        found.push_back(std::move(offer));
    }
    return found;
}

std::int32_t try_choose(RawChoice const& choice, rust::Vec<RawWantedPiece> const& pieces) {
    std::vector<WantedPiece> wanted;
    for (auto const& one : pieces)
        wanted.push_back({one.piece, one.begun, one.requested, one.claimed, one.hinted, one.holders,
                          one.before, one.overdue});
    return choose({choice.seed, choice.untested, choice.number, choice.patience}, wanted);
}

}  // namespace silmaril
