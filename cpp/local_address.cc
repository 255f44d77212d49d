#include "local_address.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <iterator>
#include <libtorrent/socket.hpp>
#include <map>

namespace silmaril {

namespace {

using Clock = std::chrono::steady_clock;

constexpr auto remembered_for = std::chrono::seconds(1);

struct CachedAnswer {
    Clock::time_point at;
    bool is_local;
};

bool ask_kernel(lt::address const& address) {
    // Binds the socket as the kernel binds a connection. With the sysctl `ip_nonlocal_bind` every address can
    // be bound. Then lost connections end only by their timeouts.
    lt::udp::endpoint const endpoint(address, 0);
    int const fd = ::socket(endpoint.protocol().family(), SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return true;
    bool const gone =
        ::bind(fd, endpoint.data(), static_cast<socklen_t>(endpoint.size())) != 0 && errno == EADDRNOTAVAIL;
    ::close(fd);
    return !gone;
}

}  // namespace

bool is_local(lt::address const& address) {
    if (address.is_unspecified()) return true;
    // At most one entry for each address of this host, because expired entries are removed.
    thread_local std::map<lt::address, CachedAnswer> answers;
    auto const now = Clock::now();
    auto const known = answers.find(address);
    if (known != answers.end() && now - known->second.at < remembered_for) return known->second.is_local;
    for (auto at = answers.begin(); at != answers.end();)
        at = now - at->second.at < remembered_for ? std::next(at) : answers.erase(at);
    bool const answer = ask_kernel(address);
    answers[address] = {now, answer};
    return answer;
}

}  // namespace silmaril
