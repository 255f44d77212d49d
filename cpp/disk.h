// The disk back end: libtorrent's disk_interface, with TorrentFiles and a small thread pool.
//
// Invariants: the hash of a piece is reported only after all its accepted writes are in the file, and only if
// the file's path still names that file. At that moment proof.h checks the hashes of the blocks, which are
// computed here. After that any process can read a proved piece with pread, and later writes to it are
// ignored. Bytes that are accepted but not yet written are served from memory. When a torrent is added, its
// files are neither checked nor hashed: the caller passes the pieces that they have.
#pragma once

#include <libtorrent/disk_interface.hpp>
#include <libtorrent/session_params.hpp>
#include <memory>

#include "outbox.h"

namespace silmaril {

struct DiskLimits {
    int threads;
    int open_files;  // most open files of all torrents together
};

// The constructor for session_params and set_piece_hashes. The disk back end reports failures to `outbox`.
lt::disk_io_constructor_type disk_constructor(std::shared_ptr<Outbox> outbox, DiskLimits limits);

}  // namespace silmaril
