// The extension `silmaril_offers` (offers.h) on one connection. Used on the network thread only.
#pragma once

#include <cstdint>
#include <libtorrent/peer_connection_handle.hpp>
#include <libtorrent/peer_request.hpp>
#include <libtorrent/span.hpp>
#include <memory>
#include <vector>

#include "offers.h"
#include "proof.h"
#include "visibility.h"

namespace silmaril {

class OfferLink {
public:
    // `proof`: null for a torrent without metadata, of which nothing is offered.
    OfferLink(std::shared_ptr<Proof const> proof, std::shared_ptr<Visibility const> visibility,
              lt::peer_connection_handle connection);

    // The peer's handshake: its number of the extension, 0 if it does not support it. Offers what this node
    // has.
    void on_handshake(std::uint8_t id);
    // Sends these messages (Offers::messages), if the peer knows the extension and does not have everything.
    void send(std::vector<std::vector<char>> const& messages);
    // The peer's message. True if it offers something.
    bool on_message(lt::span<char const> body);
    // The peer rejects a request.
    void rejected(lt::peer_request const& request);
    // Whether the peer may have these bytes of a piece that this node does not have.
    bool serves(lt::peer_request const& part) const;

    // What the peer offers.
    std::shared_ptr<Offers const> offers() const { return m_offers; }
    // The peer has announced the piece.
    void has(int piece) { m_offers->drop(piece); }

private:
    std::shared_ptr<Proof const> const m_proof;
    std::shared_ptr<Visibility const> const m_visibility;
    lt::peer_connection_handle m_connection;  // weak
    std::shared_ptr<Offers> const m_offers;
    std::uint8_t m_id = 0;
    int m_begun = 0;  // how often the peer has enabled the extension
};

}  // namespace silmaril
