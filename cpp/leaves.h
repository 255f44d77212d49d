// Answers to requests for the hashes of blocks (BEP 52). Only piece hashes are stored, so the blocks are read
// and hashed. The proof comes from the saved hashes of granules.
#pragma once

#include <optional>
#include <vector>

#include "proof.h"
#include "storage.h"

namespace silmaril {

// The hashes of the blocks of a range, followed by its proof hashes. Reads the blocks, and the rest of the
// piece if hashes of its granules are not saved. None if the range is not inside one proved piece, if the
// bytes cannot be read, or if they do not match the hash of the piece. Blocks for the disk.
std::optional<std::vector<Hash>> block_hashes(Storage& storage, HashRange const& range);

}  // namespace silmaril
