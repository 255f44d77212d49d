#include "turns.h"

#include <utility>

namespace silmaril {

bool Turns::add(Sender const& sender, Start start) {
    auto const found = m_waiting.find(sender);
    if (found != m_waiting.end() && found->second.size() >= max_waiting) return false;
    m_waiting[sender].push_back(std::move(start));
    run();
    return true;
}

void Turns::run() {
    while (m_running < m_at_once && !m_waiting.empty()) {
        auto turn = m_waiting.upper_bound(m_latest);
        if (turn == m_waiting.end()) turn = m_waiting.begin();
        m_latest = turn->first;
        auto const start = std::move(turn->second.front());
        turn->second.pop_front();
        if (turn->second.empty()) m_waiting.erase(turn);
        ++m_running;
        bool const started = start([weak = weak_from_this()] {
            auto const self = weak.lock();
            if (!self) return;
            --self->m_running;
            self->run();
        });
        if (!started) --m_running;
    }
}

}  // namespace silmaril
