// The one place that knows libtorrent versions.
#pragma once

#include <libtorrent/version.hpp>

// 2.0.8 is what Debian 12 has. 2.1 changes disk_interface (check results become flags, storage_params grows), so
// disk.cc has to be ported to it first.
#if LIBTORRENT_VERSION_NUM < 20008 || LIBTORRENT_VERSION_NUM >= 20100
#error "silmaril needs libtorrent 2.0.8 or later, below 2.1"
#endif

