// Messages of the peer protocol (BEP 3, BEP 10), framed for the send buffer.
#pragma once

#include <cstdint>
#include <libtorrent/peer_connection.hpp>
#include <vector>

#include "gate.h"

namespace silmaril {

// Appends a number of 4 bytes, big endian.
inline void put_number(std::vector<char>& to, std::int64_t number) {
    for (int shift = 24; shift >= 0; shift -= 8) to.push_back(char(number >> shift & 0xff));
}

// Sends an extended message with the peer's number of the extension.
inline void send_extended(lt::peer_connection& peer, std::uint8_t id, std::vector<char> const& body) {
    std::vector<char> frame;
    put_number(frame, std::int64_t(body.size()) + 2);
    frame.push_back(char(MessageType::extended));
    frame.push_back(char(id));
    frame.insert(frame.end(), body.begin(), body.end());
    peer.send_buffer({frame.data(), std::ptrdiff_t(frame.size())});
}

}  // namespace silmaril
