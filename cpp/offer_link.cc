#include "offer_link.h"

#include <libtorrent/peer_connection.hpp>
#include <libtorrent/torrent.hpp>
#include <utility>

#include "frame.h"

namespace silmaril {

namespace {

// How often one connection may enable the extension. Each time it gets everything that is offered.
constexpr int max_begun = 8;

}  // namespace

OfferLink::OfferLink(std::shared_ptr<Proof const> proof, std::shared_ptr<Visibility const> visibility,
                     lt::peer_connection_handle connection)
    : m_proof(std::move(proof)),
      m_visibility(std::move(visibility)),
      m_connection(std::move(connection)),
      m_offers(
          std::make_shared<Offers>(m_proof ? m_proof->pieces() : 0, m_proof ? m_proof->piece_length() : 0)) {}

void OfferLink::on_handshake(std::uint8_t id) {
    bool const knew = std::exchange(m_id, id) != 0;
    if (knew || id == 0 || !m_proof) return;
    if (++m_begun > max_begun) {
        m_id = 0;
        return;
    }
    auto const& blocks = m_proof->blocks;
    send(Offers::messages(blocks.offered_pieces(), blocks, m_proof->piece_length()));
}

void OfferLink::send(std::vector<std::vector<char>> const& messages) {
    auto const connection = m_connection.native_handle();
    if (!connection || m_id == 0 || m_visibility->withheld || connection->is_seed()) return;
    for (auto const& message : messages)
        if (!connection->is_disconnecting()) send_extended(*connection, m_id, message);
}

bool OfferLink::on_message(lt::span<char const> body) {
    auto const connection = m_connection.native_handle();
    auto const torrent = connection ? connection->associated_torrent().lock() : nullptr;
    if (!torrent || torrent->is_seed() || connection->is_disconnecting()) return false;
    if (!m_offers->replace(body, Clock::now()) || m_offers->empty()) return false;
    // libtorrent is interested in whole pieces only, and the peer unchokes only an interested one.
    connection->send_interested();
    return true;
}

void OfferLink::rejected(lt::peer_request const& request) {
    // A peer that chokes rejects all requests.
    if (!m_connection.has_peer_choked()) m_offers->drop(static_cast<int>(request.piece));
}

bool OfferLink::serves(lt::peer_request const& part) const {
    return m_proof && !m_visibility->withheld &&
           m_proof->blocks.offers(static_cast<int>(part.piece), part.start, part.length);
}

}  // namespace silmaril
