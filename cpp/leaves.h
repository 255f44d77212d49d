// Answers to requests for the hashes of blocks or granules (BEP 52). Only piece hashes are always stored, so
// the blocks are read and hashed. The rest comes from the saved hashes of granules.
#pragma once

#include <optional>
#include <vector>

#include "proof.h"
#include "storage.h"

namespace silmaril {

// The hashes of a range, followed by its proof hashes. Reads the blocks, and the rest of a proved piece if
// the hashes of its granules are not saved. None if the range is not one that Proof::subtree accepts, if the
// bytes cannot be read, or if they do not match the hash of the piece. Blocks for the disk.
std::optional<std::vector<Hash>> hashes_of(Storage& storage, HashRange const& range);

// The saved hashes of the granules of a piece, padded; none unless all are saved, and right. Blocks for the
// disk.
std::optional<std::vector<Hash>> granules_of(Storage& storage, int piece);

}  // namespace silmaril
