// A task of the network thread that runs soon after it is needed, once for all needs until then.
//
// Peers decide how often the task is needed, and how much it has to do. So that they cannot keep the thread
// from serving other peers, it gets at most a quarter of the thread's time: after a run that took long, the
// next one waits. Used on the network thread only.
#pragma once

#include <functional>
#include <libtorrent/fwd.hpp>
#include <libtorrent/io_context.hpp>
#include <memory>

#include "bucket.h"

namespace silmaril {

class Soon : public std::enable_shared_from_this<Soon> {
public:
    // The task runs not earlier than `delay` after it is needed.
    explicit Soon(std::function<void()> task, Clock::duration delay = {})
        : m_task(std::move(task)), m_delay(delay) {}
    // The task is needed. `network`: the loop of the network thread.
    void need(lt::io_context& network);

private:
    void run(lt::io_context& network);

    std::function<void()> const m_task;
    Clock::duration const m_delay;
    bool m_due = false;
    bool m_runs = false;
    bool m_again = false;  // needed while it runs
    Clock::time_point m_next{};
};

}  // namespace silmaril
