// Whether this host still has an address.
#pragma once

#include <libtorrent/address.hpp>

namespace silmaril {

// True unless the kernel says that no packet can be sent from the address any more: the host has moved to
// another network, or its interface is gone. Costs a socket that is bound and closed; an answer is
// remembered for a second.
bool is_local(lt::address const& address);

}  // namespace silmaril
