#include "dht.h"

#include <libtorrent/alert_types.hpp>
#include <libtorrent/bdecode.hpp>
#include <libtorrent/bencode.hpp>
#include <libtorrent/entry.hpp>
#include <libtorrent/session_handle.hpp>
#include <libtorrent/session_params.hpp>
#include <libtorrent/session_stats.hpp>
#include <stdexcept>

#include "events.h"
#include "session.h"
#include "silmaril/src/ffi.rs.h"

namespace silmaril {

namespace {

// BEP 44. libtorrent copies values into stack buffers of this size without a check.
constexpr std::size_t max_value = 1000;

std::vector<char> encoded(lt::entry const& value) {
    std::vector<char> bytes;
    lt::bencode(std::back_inserter(bytes), value);
    return bytes;
}

// Decodes the value of an item. Encoding it again must give the bytes that were signed.
lt::entry value_of(rust::Vec<std::uint8_t> const& bytes) {
    if (bytes.size() > max_value) throw std::runtime_error("the item is too long");
    auto const* const data = reinterpret_cast<char const*>(bytes.data());
    lt::error_code error;
    auto const node = lt::bdecode({data, std::ptrdiff_t(bytes.size())}, error);
    if (error) throw std::runtime_error("the item is not bencoded: " + error.message());
    lt::entry value(node);
    auto const again = encoded(value);
    if (!std::equal(again.begin(), again.end(), data, data + bytes.size()))
        throw std::runtime_error("the item is not bencoded in canonical form");
    return value;
}

template <std::size_t Size>
void fill(std::array<std::uint8_t, Size>& to, char const* from) {
    std::copy(from, from + Size, reinterpret_cast<char*>(to.data()));
}

lt::sha1_hash hash_of(std::array<std::uint8_t, 20> const& topic) {
    return lt::sha1_hash(reinterpret_cast<char const*>(topic.data()));
}

std::array<char, 32> key_of(std::array<std::uint8_t, 32> const& publisher) {
    std::array<char, 32> key;
    std::copy(publisher.begin(), publisher.end(), reinterpret_cast<std::uint8_t*>(key.data()));
    return key;
}

std::string salt_of(std::array<std::uint8_t, 20> const& salt) {
    return {reinterpret_cast<char const*>(salt.data()), salt.size()};
}

}  // namespace

void Engine::dht_announce(std::array<std::uint8_t, 20> const& topic, std::uint16_t port) const {
    std::lock_guard const lock(m_mutex);
    // The port of the torrents is announced. The DHT may use another port, so the packets' source port is not
    // used.
    if (m_session) m_session->dht_announce(hash_of(topic), port, {});
}

void Engine::dht_find(std::array<std::uint8_t, 20> const& topic) const {
    std::lock_guard const lock(m_mutex);
    if (m_session) m_session->dht_get_peers(hash_of(topic));
}

void Engine::dht_put(RawItem const& item) const {
    auto value = value_of(item.value);
    std::array<char, 64> signature;
    if (item.signature.size() != signature.size()) throw std::runtime_error("not a signature");
    std::copy(item.signature.begin(), item.signature.end(),
              reinterpret_cast<std::uint8_t*>(signature.data()));
    // Called on the network thread, once per DHT socket, with the newest item that was found.
    auto const choose = [value = std::move(value), signature, sequence = item.sequence](
                            lt::entry& found, std::array<char, 64>& found_signature,
                            std::int64_t& found_sequence, std::string const&) {
        bool const newer = found.type() != lt::entry::undefined_t && found_sequence > sequence &&
                           encoded(found).size() <= max_value;
        if (newer) return;
        found = value;
        found_signature = signature;
        found_sequence = sequence;
    };
    std::lock_guard const lock(m_mutex);
    if (m_session) m_session->dht_put_item(key_of(item.publisher), choose, salt_of(item.salt));
}

void Engine::dht_get(std::array<std::uint8_t, 32> const& publisher,
                     std::array<std::uint8_t, 20> const& salt) const {
    std::lock_guard const lock(m_mutex);
    if (m_session) m_session->dht_get_item(key_of(publisher), salt_of(salt));
}

rust::Vec<std::uint8_t> Engine::dht_state() const {
    lt::session_handle session;
    {
        std::lock_guard const lock(m_mutex);
        if (m_session) session = *m_session;
    }
    if (!session.is_valid()) throw std::runtime_error("the session is over");
    auto const flags = lt::session_handle::save_dht_state;
    auto const state = lt::write_session_params_buf(session.session_state(flags), flags);
    return bytes_of(state.data(), state.size());
}

lt::dht::dht_state parse_dht_state(rust::Slice<std::uint8_t const> bytes) {
    if (bytes.empty()) return {};
    try {
        return lt::read_session_params(
                   {reinterpret_cast<char const*>(bytes.data()), std::ptrdiff_t(bytes.size())},
                   lt::session_handle::save_dht_state)
            .dht_state;
    } catch (lt::system_error const&) {
        return {};
    }
}

bool translate_dht(lt::alert const& alert, rust::Vec<RawEvent>& events) {
    if (auto const* a = lt::alert_cast<lt::dht_get_peers_reply_alert>(&alert)) {
        auto event = event_of(RawKind::DhtPeers, 0);
        event.data = bytes_of(a->info_hash.data(), std::size_t(lt::sha1_hash::size()));
        for (auto const& peer : a->peers())
            event.endpoints.push_back({rust::String(peer.address().to_string()), peer.port()});
        events.push_back(std::move(event));
    } else if (auto const* a = lt::alert_cast<lt::dht_mutable_item_alert>(&alert)) {
        auto event = event_of(RawKind::DhtFound, 0);
        if (a->salt.size() != event.item.salt.size()) return true;
        fill(event.item.publisher, a->key.data());
        fill(event.item.salt, a->salt.data());
        event.item.sequence = a->seq;
        event.flag = a->authoritative;
        event.item.signature = bytes_of(a->signature.data(), a->signature.size());
        if (a->item.type() != lt::entry::undefined_t) {
            auto const value = encoded(a->item);
            if (value.size() <= max_value) event.item.value = bytes_of(value.data(), value.size());
        }
        events.push_back(std::move(event));
    } else if (auto const* a = lt::alert_cast<lt::dht_put_alert>(&alert)) {
        auto event = event_of(RawKind::DhtStored, 0);
        if (a->salt.size() != event.item.salt.size()) return true;
        fill(event.item.publisher, a->public_key.data());
        fill(event.item.salt, a->salt.data());
        event.item.sequence = a->seq;
        event.peers = std::uint32_t(std::max(a->num_success, 0));
        events.push_back(std::move(event));
    } else if (auto const* a = lt::alert_cast<lt::session_stats_alert>(&alert)) {
        static int const nodes = lt::find_metric_idx("dht.dht_nodes");
        if (nodes < 0) return true;
        auto event = event_of(RawKind::DhtNodes, 0);
        event.peers = std::uint32_t(std::max<std::int64_t>(a->counters()[nodes], 0));
        events.push_back(std::move(event));
    } else {
        return false;
    }
    return true;
}

}  // namespace silmaril
