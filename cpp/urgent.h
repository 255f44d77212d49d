// Deadlines of pieces for which a read waits, or soon will.
//
// If requests for other pieces fill the queues of the peers, a read waits behind them. So when a piece gets a
// deadline, and no other piece has one, requests for pieces that are in no window are cancelled. Not more
// often than every few seconds: on a fast link the cancelled blocks are on their way already, so they come
// twice, and the pieces with deadlines have all come each time the next one gets its deadline. Used on the
// network thread only.
#pragma once

#include <libtorrent/torrent.hpp>

#include "bucket.h"

namespace silmaril {

// From this priority on, a piece is in the window of a reader.
constexpr int window_priority = 4;

class Urgent {
public:
    void set_deadline(lt::torrent& torrent, lt::piece_index_t piece, int milliseconds);

private:
    Clock::time_point m_next{};  // requests are not cancelled before
};

}  // namespace silmaril
