#include "soon.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <utility>

namespace silmaril {

namespace {

// After a run the task waits for so many times as long as the run took, but not longer than a tick.
constexpr int rest = 3;
constexpr Clock::duration longest = std::chrono::seconds(1);

}  // namespace

void Soon::need(lt::io_context& network) {
    if (m_runs) m_again = true;
    if (m_runs || std::exchange(m_due, true)) return;
    auto start = [weak = weak_from_this(), &network] {
        if (auto const self = weak.lock()) self->run(network);
    };
    auto const now = Clock::now();
    auto const at = std::max(m_next, now + m_delay);
    if (at <= now) return boost::asio::post(network, std::move(start));
    // The handler owns the timer.
    auto timer = std::make_shared<boost::asio::steady_timer>(network, at);
    timer->async_wait([timer, start = std::move(start)](boost::system::error_code const&) { start(); });
}

void Soon::run(lt::io_context& network) {
    m_due = false;
    m_runs = true;
    auto const begun = Clock::now();
    m_task();
    auto const end = Clock::now();
    m_runs = false;
    m_next = end + std::min(rest * (end - begun), longest);
    if (std::exchange(m_again, false)) need(network);
}

}  // namespace silmaril
