// Whether this host still has an address.
#pragma once

#include <libtorrent/address.hpp>

namespace silmaril {

// False if the kernel reports that no packet can be sent from the address, because the host has moved to
// another network or the interface is gone. Opens, binds and closes a socket; the result is cached for a
// second.
bool is_local(lt::address const& address);

}  // namespace silmaril
