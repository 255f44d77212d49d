// The errors that the disk back end returns to libtorrent. The real error goes to the outbox.
#pragma once

#include <libtorrent/error_code.hpp>

#include "files.h"

namespace silmaril {

// libtorrent reacts to the code of a failed write: after `no_space_on_device` it stops requesting and
// continues to upload, after most other codes it disconnects all peers. The real error is reported to the
// outbox.
lt::storage_error write_refused();
lt::storage_error read_failed(FileError const& failure);
lt::storage_error given_up();
// After this error libtorrent requests the block again, and does nothing else.
lt::storage_error dropped();

}  // namespace silmaril
