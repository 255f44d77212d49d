#include "pool.h"

#include <utility>

namespace silmaril {

namespace {

// Uploads and hashes run before writes. After this many of them in a row one write runs, so that writes do
// not starve.
constexpr int urgent_in_a_row = 16;

}  // namespace

Pool::Pool(int threads, Task on_exit) : m_on_exit(std::move(on_exit)), m_alive(threads) {
    for (int i = 0; i < threads; ++i) m_threads.emplace_back([this] { run(); });
}

Pool::~Pool() { stop(true); }

void Pool::run_soon(Task task, bool urgent) {
    {
        std::lock_guard const lock(m_mutex);
        if (m_alive > 0) (urgent ? m_urgent : m_writes).push_back(std::exchange(task, nullptr));
    }
    m_wake.notify_one();
    if (task) task();  // the threads have ended
}

void Pool::stop(bool wait) {
    {
        std::lock_guard const lock(m_mutex);
        m_stopping = true;
    }
    m_wake.notify_all();
    if (!wait) return;
    for (auto& thread : m_threads)
        if (thread.joinable()) thread.join();
}

void Pool::run() {
    std::unique_lock lock(m_mutex);
    int in_a_row = 0;
    for (;;) {
        // A running task may queue the next task of its piece, so a thread ends only when no task runs.
        m_wake.wait(lock, [&] { return !empty() || (m_stopping && m_running == 0); });
        if (empty()) break;
        bool const take_write = m_urgent.empty() || (in_a_row >= urgent_in_a_row && !m_writes.empty());
        auto& queue = take_write ? m_writes : m_urgent;
        in_a_row = take_write ? 0 : in_a_row + 1;
        auto task = std::move(queue.front());
        queue.pop_front();
        ++m_running;
        lock.unlock();
        task();
        task = nullptr;
        lock.lock();
        --m_running;
        if (m_stopping) m_wake.notify_all();
    }
    bool const last = --m_alive == 0;
    lock.unlock();
    if (last) m_on_exit();
}

}  // namespace silmaril
