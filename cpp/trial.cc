#include "trial.h"

#include "gate.h"
#include "layers.h"

namespace silmaril {

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
            if (auto const range = range_in(body)) gate.requested(*range);
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

}  // namespace silmaril
