// Answers to a peer's requests for hashes of blocks or granules (BEP 52), when it is the peer's turn
// (turns.h). Used on the network thread only.
#pragma once

#include <libtorrent/peer_connection_handle.hpp>
#include <libtorrent/span.hpp>
#include <memory>
#include <vector>

#include "gate.h"
#include "proof.h"
#include "turns.h"

namespace silmaril {

// Sends a HASH_REQUEST, HASHES or HASH_REJECT.
void send_range(lt::peer_connection_handle peer, MessageType type, HashRange const& range,
                std::vector<Hash> const& hashes);

class HashAnswers {
public:
    // `proof`: null for a torrent without metadata.
    HashAnswers(std::shared_ptr<Proof> proof, std::shared_ptr<Turns> turns,
                lt::peer_connection_handle connection)
        : m_proof(std::move(proof)), m_turns(std::move(turns)), m_connection(std::move(connection)) {}

    // `fields`: the body of a HASH_REQUEST. These functions return false if the peer sends too many of them.
    // Sends the hashes when it is the sender's turn.
    bool send(Turns::Sender const& sender, lt::span<char const> fields);
    // Rejects the request in the next second.
    bool reject_later(lt::span<char const> fields);
    void reject(lt::span<char const> fields);
    // Must be called once a second.
    void tick();

private:
    std::shared_ptr<Proof> const m_proof;
    std::shared_ptr<Turns> const m_turns;
    lt::peer_connection_handle m_connection;    // weak
    std::vector<std::vector<char>> m_rejected;  // requests that are rejected in the next second
};

}  // namespace silmaril
