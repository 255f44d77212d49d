// One connection's side of `ut_metadata` (BEP 9) for a torrent without metadata: its messages, and the rules
// for what they contain. For the network thread alone.
#pragma once

#include <cstdint>
#include <functional>
#include <libtorrent/bdecode.hpp>
#include <libtorrent/entry.hpp>
#include <libtorrent/extensions.hpp>
#include <libtorrent/peer_connection_handle.hpp>
#include <libtorrent/span.hpp>
#include <libtorrent/torrent_handle.hpp>
#include <memory>
#include <vector>

#include "metadata.h"

namespace silmaril {

// Our number of the extension: the one that libtorrent gives it.
constexpr int metadata_id = 2;

// libtorrent's own plugins, except that its `ut_metadata` serves metadata and never fetches it: it mixes the
// blocks of several peers, believes the size that one of them announces, and cannot know which one is false.
std::vector<std::shared_ptr<lt::plugin>> session_plugins();

// Fetches the metadata of a torrent, checks its hash and gives it to libtorrent.
std::shared_ptr<MetadataFetch> fetch_metadata(lt::torrent_handle handle);

class MetadataLink final : public MetadataSource {
public:
    // `fetch`: null where the torrent needs no metadata; then this does nothing. `end`: see
    // MetadataSource::end.
    MetadataLink(std::shared_ptr<MetadataFetch> fetch, lt::peer_connection_handle connection,
                 std::function<void(bool wrong)> end);
    ~MetadataLink() override;
    MetadataLink(MetadataLink const&) = delete;
    MetadataLink& operator=(MetadataLink const&) = delete;

    // Puts the extension into our handshake.
    void offer(lt::entry& handshake) const;
    void on_handshake(lt::bdecode_node const& handshake);
    // libtorrent calls it each time more of a message has come. True when the message is of this extension.
    bool on_message(int length, int id, lt::span<char const> so_far);
    // The connection has ended.
    void on_disconnect();

    lt::address group() const override;
    void ask(int block) override;
    void end(bool wrong) override { m_end(wrong); }

private:
    void send(int kind, std::int64_t block);

    std::shared_ptr<MetadataFetch> const m_fetch;
    lt::peer_connection_handle m_connection;  // weak
    lt::address const m_group;
    std::function<void(bool)> const m_end;
    std::uint8_t m_their_id = 0;
};

}  // namespace silmaril
