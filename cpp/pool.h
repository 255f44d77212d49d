// The threads of the disk back end: uploads and hashes run before writes.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "storage.h"

namespace silmaril {

// Runs tasks on its threads. After `stop` the threads end when no task is left.
class Pool {
public:
    // The last thread calls `on_exit` when it ends.
    Pool(int threads, Task on_exit);
    ~Pool();

    // Queues the task, before all writes if it is urgent. Runs it in the calling thread if the threads have
    // ended.
    void run_soon(Task task, bool urgent);
    // With `wait`, returns when the threads have ended.
    void stop(bool wait);

private:
    void run();
    bool empty() const { return m_urgent.empty() && m_writes.empty(); }

    Task const m_on_exit;
    std::mutex m_mutex;
    std::condition_variable m_wake;
    std::deque<Task> m_urgent;
    std::deque<Task> m_writes;
    int m_running = 0;
    int m_alive;
    bool m_stopping = false;
    std::vector<std::thread> m_threads;
};

}  // namespace silmaril
