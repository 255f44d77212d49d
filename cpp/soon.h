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
    explicit Soon(std::function<void()> task) : m_task(std::move(task)) {}
    // The task is needed. `network`: the loop of the network thread.
    void need(lt::io_context& network);

private:
    void run(lt::io_context& network);

    std::function<void()> const m_task;
    bool m_due = false;
    bool m_runs = false;
    bool m_again = false;  // needed while it runs
    Clock::time_point m_next{};
};

}  // namespace silmaril
