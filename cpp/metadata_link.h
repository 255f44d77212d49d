// The extension `ut_metadata` (BEP 9) on one connection of a torrent without metadata: sends, receives and
// checks its messages. Used on the network thread only.
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

// Our number of the extension, the same as libtorrent's.
constexpr int metadata_id = 2;

// libtorrent's own plugins, with the change that `ut_metadata` serves metadata and never fetches it. When it
// fetches, it mixes the blocks of several peers and trusts the size that one of them announces, so it cannot
// identify a liar.
std::vector<std::shared_ptr<lt::plugin>> session_plugins();

// Fetches the metadata of a torrent, checks its hash and passes it to libtorrent.
std::shared_ptr<MetadataFetch> fetch_metadata(lt::torrent_handle handle);

class MetadataLink final : public MetadataSource {
public:
    // `fetch`: null if the torrent needs no metadata; then this object does nothing. `end`: see
    // MetadataSource::end.
    MetadataLink(std::shared_ptr<MetadataFetch> fetch, lt::peer_connection_handle connection,
                 std::function<void(bool wrong)> end);
    ~MetadataLink() override;
    MetadataLink(MetadataLink const&) = delete;
    MetadataLink& operator=(MetadataLink const&) = delete;

    // Adds the extension to our handshake.
    void offer(lt::entry& handshake) const;
    void on_handshake(lt::bdecode_node const& handshake);
    // Called by libtorrent each time a further part of a message has arrived. True if the message belongs to
    // this extension.
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
