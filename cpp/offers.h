// Offers: the granules that a peer has of pieces that it does not have, as it reports them by the BEP 10
// extension `silmaril_offers`. A reader of a few kilobytes has granules only, and HAVE announces whole
// pieces.
//
// A message consists of entries, one for each piece: the piece in 4 bytes, big endian, and a bit field of its
// granules of 64 KiB. The first granule is the highest bit of the first byte, and spare bits are ignored. An
// entry replaces the former one of its piece. A message of another length is ignored, and so is the rest of
// one from the first piece that does not exist. Used on the network thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <libtorrent/file_storage.hpp>
#include <libtorrent/span.hpp>
#include <map>
#include <set>
#include <vector>

#include "blocks.h"
#include "guard.h"

namespace silmaril {

class Offers {
public:
    static constexpr char name[] = "silmaril_offers";
    static constexpr int our_id = 24;
    // How long proved granules are collected before they are offered.
    static constexpr auto collected_for = std::chrono::milliseconds(20);
    // Entries of one message, and pieces of one peer. Further ones are ignored.
    static constexpr std::size_t most_entries = 256;
    static constexpr std::size_t most_pieces = 1024;

    // For a torrent of so many pieces of so many bytes. Without granules in its pieces nothing is offered.
    Offers(int pieces, int piece_length);

    // The bodies of the messages that offer what these pieces have. At most `most_pieces` entries.
    static std::vector<std::vector<char>> messages(std::set<int> const& pieces, Blocks const& blocks,
                                                   int piece_length);

    // The peer's message. False if it is ignored, because it is malformed or comes too fast.
    bool replace(lt::span<char const> body, Clock::time_point now);
    // Removes the offers of a piece: the peer has the whole piece, or rejects requests for what it offered.
    void drop(int piece) { m_pieces.erase(piece); }
    bool empty() const { return m_pieces.empty(); }
    bool any(int piece) const { return m_pieces.count(piece) > 0; }
    // The offered granules of each piece. No entry is without any.
    std::map<int, std::vector<bool>> const& pieces() const { return m_pieces; }
    // Whether the peer offers all of these blocks. Blocks behind the end of the piece are not counted.
    bool has(int piece, int first, int last) const;

private:
    int const m_count;
    int const m_granules;  // of a piece
    std::map<int, std::vector<bool>> m_pieces;
    // A node sends at most half as many messages.
    Bucket m_messages{256, 128};
    Bucket m_entries{2 * most_pieces, 1024};
};

}  // namespace silmaril
