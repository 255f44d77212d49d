// Creates hybrid torrents by hashing the files.
#pragma once

#include <cstdint>

#include "rust/cxx.h"

namespace silmaril {

struct RawFile;

rust::Vec<std::uint8_t> create_hybrid(rust::Str name, rust::Vec<RawFile> const& files,
                                      std::uint32_t piece_length, std::int32_t threads);

}  // namespace silmaril
