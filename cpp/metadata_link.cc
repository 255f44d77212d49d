#include "metadata_link.h"

#include <algorithm>
#include <libtorrent/bencode.hpp>
#include <libtorrent/extensions/smart_ban.hpp>
#include <libtorrent/extensions/ut_metadata.hpp>
#include <libtorrent/extensions/ut_pex.hpp>
#include <libtorrent/hasher.hpp>
#include <libtorrent/torrent.hpp>
#include <utility>

#include "gate.h"

namespace silmaril {

namespace {

// BEP 9: the values of `msg_type`.
constexpr int request = 0;
constexpr int data = 1;
constexpr int reject = 2;

// A block and the dictionary before it.
constexpr int max_length = 17 * 1024;

using Make = std::shared_ptr<lt::torrent_plugin> (*)(lt::torrent_handle const&, lt::client_data_t);

struct SessionPlugin final : lt::plugin {
    explicit SessionPlugin(Make make) : m_make(make) {}
    std::shared_ptr<lt::torrent_plugin> new_torrent(lt::torrent_handle const& handle,
                                                    lt::client_data_t data) override {
        return m_make(handle, data);
    }
    Make const m_make;
};

std::shared_ptr<lt::torrent_plugin> serve_metadata(lt::torrent_handle const& handle, lt::client_data_t data) {
    auto const torrent = handle.native_handle();
    if (!torrent || !torrent->valid_metadata()) return nullptr;
    return lt::create_ut_metadata_plugin(handle, data);
}

bool is_metadata_of(lt::info_hash_t const& hashes, std::vector<char> const& bytes) {
    if (hashes.has_v2() && lt::hasher256(bytes).final() != hashes.v2) return false;
    return !hashes.has_v1() || lt::hasher(bytes).final() == hashes.v1;
}

}  // namespace

std::vector<std::shared_ptr<lt::plugin>> session_plugins() {
    return {std::make_shared<SessionPlugin>(lt::create_ut_pex_plugin),
            std::make_shared<SessionPlugin>(serve_metadata),
            std::make_shared<SessionPlugin>(lt::create_smart_ban_plugin)};
}

std::shared_ptr<MetadataFetch> fetch_metadata(lt::torrent_handle handle) {
    return std::make_shared<MetadataFetch>([handle = std::move(handle)](std::vector<char> const& bytes) {
        auto const torrent = handle.native_handle();
        if (!torrent || torrent->valid_metadata()) return true;
        if (!is_metadata_of(torrent->info_hash(), bytes)) return false;
        // If libtorrent cannot parse the dictionary, it stops the torrent with an error. The hash matches, so
        // every peer has the same dictionary.
        torrent->set_metadata(bytes);
        return true;
    });
}

MetadataLink::MetadataLink(std::shared_ptr<MetadataFetch> fetch, lt::peer_connection_handle connection,
                           std::function<void(bool)> end)
    : m_fetch(std::move(fetch)),
      m_connection(std::move(connection)),
      m_group(group_address(m_connection.remote().address())),
      m_end(std::move(end)) {}

MetadataLink::~MetadataLink() { on_disconnect(); }

void MetadataLink::on_disconnect() {
    if (m_fetch) m_fetch->left(*this);
}

lt::address MetadataLink::group() const { return m_group; }

void MetadataLink::offer(lt::entry& handshake) const {
    if (m_fetch && handshake.type() == lt::entry::dictionary_t) handshake["m"]["ut_metadata"] = metadata_id;
}

void MetadataLink::on_handshake(lt::bdecode_node const& handshake) {
    if (!m_fetch || handshake.type() != lt::bdecode_node::dict_t) return;
    // A later handshake contains only what has changed.
    if (auto const numbers = handshake.dict_find_dict("m")) {
        auto const number = numbers.dict_find_int_value("ut_metadata", m_their_id);
        m_their_id = number > 0 && number < 256 ? std::uint8_t(number) : std::uint8_t(0);
    }
    auto const size = handshake.dict_find_int("metadata_size");
    if (size && m_their_id != 0) m_fetch->announced(*this, size.int_value(), Clock::now());
}

bool MetadataLink::on_message(int length, int id, lt::span<char const> so_far) {
    if (!m_fetch || id != metadata_id) return false;
    if (length < 0 || length > max_length) {
        m_end(true);
        return true;
    }
    if (so_far.size() < length) return true;
    lt::error_code error;
    auto const message = lt::bdecode(so_far, error);
    auto const kind =
        message.type() == lt::bdecode_node::dict_t ? message.dict_find_int("msg_type") : lt::bdecode_node();
    auto const block = kind ? message.dict_find_int("piece") : lt::bdecode_node();
    if (!block) {
        m_end(true);
        return true;
    }
    switch (kind.int_value()) {
        case request:
            send(reject, block.int_value());
            break;
        case data:
            m_fetch->received(*this, block.int_value(), message.dict_find_int_value("total_size", 0),
                              so_far.subspan(message.data_section().size()), Clock::now());
            break;
        case reject:
            m_fetch->rejected(*this, block.int_value(), Clock::now());
            break;
        default:
            break;  // BEP 9: unknown kinds are ignored
    }
    return true;
}

void MetadataLink::ask(int block) { send(request, block); }

void MetadataLink::send(int kind, std::int64_t block) {
    if (m_their_id == 0) return;
    lt::entry fields;
    fields["msg_type"] = kind;
    fields["piece"] = block;
    std::vector<char> frame{0, 0, 0, 0, char(MessageType::extended), char(m_their_id)};
    lt::bencode(std::back_inserter(frame), fields);
    auto const length = std::uint32_t(frame.size() - 4);
    for (int at = 0; at < 4; ++at) frame[std::size_t(at)] = char(std::uint8_t(length >> (24 - 8 * at)));
    m_connection.send_buffer(frame.data(), int(frame.size()));
}

}  // namespace silmaril
