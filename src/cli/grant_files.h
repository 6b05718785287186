// Small files of the issuer's and the node's side, whole or not at all.
#pragma once
#include <string>

namespace bulkhead::cli {

// At most `most` bytes of a regular file. The problem, or "".
[[nodiscard]] std::string read_small(const std::string& path, std::size_t most, std::string& text);
// By rename beside it, synced. `fresh`: refuses to replace one that is there. The problem, or "".
[[nodiscard]] std::string write_small(const std::string& path, const std::string& text,
                                      unsigned mode, bool fresh);

}  // namespace bulkhead::cli
