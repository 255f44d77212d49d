// Methods of Engine for peers that connect without transfer of data: meetings and messages. Also addresses.

#include <libtorrent/add_torrent_params.hpp>
#include <libtorrent/ip_filter.hpp>
#include <stdexcept>

#include "session.h"
#include "silmaril/src/ffi.rs.h"

namespace silmaril {

void Engine::meet(RawMeeting const& from) const {
    lt::add_torrent_params params;
    auto const* const place = reinterpret_cast<char const*>(from.place.data());
    params.flags = base_flags;
    if (from.place.size() == std::size_t(lt::sha1_hash::size())) {
        params.info_hashes = lt::info_hash_t(lt::sha1_hash(place));
    } else if (from.place.size() == std::size_t(lt::sha256_hash::size())) {
        params.info_hashes = lt::info_hash_t(lt::sha256_hash(place));
        // In upload mode nothing but the metadata is fetched; the torrent has no files.
        params.flags |= lt::torrent_flags::upload_mode;
    } else {
        throw std::runtime_error("not an info hash");
    }
    params.save_path = save_path_of(from.torrent);
    if (!from.dht) params.flags |= lt::torrent_flags::disable_dht;
    if (!from.lan) params.flags |= lt::torrent_flags::disable_lsd;
    params.max_connections = from.max_connections;
    for (auto const& peer : from.peers) params.peers.push_back(endpoint_of(peer));
    for (auto const& tracker : from.trackers) params.trackers.emplace_back(std::string(tracker));
    m_outbox->register_files(from.torrent, {}, nullptr);
    add_to_session(from.torrent, std::move(params), Torrent{});
}

bool Engine::announce_now(std::uint64_t torrent, bool dht) const {
    std::lock_guard const lock(m_mutex);
    return with(torrent, [dht](lt::torrent_handle const& handle) {
        handle.force_lsd_announce();
        if (dht) handle.force_dht_announce();
    });
}

bool Engine::send_message(std::uint64_t peer, rust::Slice<std::uint8_t const> message) const {
    if (message.size() > max_message) throw std::runtime_error("the message is too long");
    return Talk::send(m_talk, peer,
                      {reinterpret_cast<char const*>(message.data()), std::ptrdiff_t(message.size())});
}

void Engine::disconnect(std::uint64_t peer, bool misbehaved) const {
    Talk::disconnect(m_talk, peer, misbehaved);
}

void Engine::trust_host(rust::Str address) const {
    lt::error_code error;
    auto const parsed = lt::make_address(std::string(address), error);
    if (error) throw std::runtime_error("not an address: " + std::string(address));
    m_guard->trust(parsed);
}

void Engine::block_addresses(rust::Vec<RawRange> const& ranges) const {
    auto const parse = [](rust::String const& text) {
        lt::error_code error;
        auto const address = lt::make_address(std::string(text), error);
        if (error) throw std::runtime_error("not an address: " + std::string(text));
        return address;
    };
    lt::ip_filter filter;
    for (auto const& range : ranges) {
        filter.add_rule(parse(range.first), parse(range.last), lt::ip_filter::blocked);
    }
    std::lock_guard const lock(m_mutex);
    if (m_session) m_session->set_ip_filter(std::move(filter));
}

}  // namespace silmaril
