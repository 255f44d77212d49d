// The disk back end: libtorrent's disk_interface over TorrentFiles and a small thread pool.
//
// What holds: a piece's hash is answered only after all its accepted writes are in the file, and only if they
// are there under the file's path. The hashes of its blocks, computed here, are judged by proof.h at that
// moment: a proved piece can be read by anyone with pread, and later writes to it are ignored. Bytes that
// were accepted but not written yet are served from memory. Files are never checked or hashed when a torrent
// is added: the caller states which pieces are in them.
#pragma once

#include <libtorrent/disk_interface.hpp>
#include <libtorrent/session_params.hpp>
#include <memory>

#include "outbox.h"

namespace silmaril {

struct DiskLimits {
    int threads;
    int open_files;  // kept open, of all torrents together
};

// Makes the constructor that session_params and set_piece_hashes take. Failures are reported to `outbox`.
lt::disk_io_constructor_type disk_constructor(std::shared_ptr<Outbox> outbox, DiskLimits limits);

}  // namespace silmaril
