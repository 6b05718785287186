// Closed segments in columns (docs/formats/log.md): a fifth of the bytes, and nothing is deleted before the packed file was
// decoded again and compared.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "audit/files.h"

namespace bulkhead::audit {

// What packing leaves free for the log that grows beside it. A packed copy is taken to need as much as .data.
inline constexpr std::uint64_t kPackReserve = 64u << 20;

struct PackResult {
  std::uint64_t raw_bytes = 0, packed_bytes = 0;
  bool no_room = false;  // nothing was begun: there is no room for a copy and the reserve
};
// Makes segment/N.zst of segment/N.data, reads it back, compares SHA-256, and only then removes .data. "" or the problem;
// with a problem .data is there still. Room is looked at first and between pieces. `stop` is asked between pieces: true ends it, as a problem.
[[nodiscard]] std::string pack_segment(Files& files, std::uint64_t first, PackResult& result,
                                       const std::function<bool()>& stop = {});
// The bytes of .data, read from a packed file. Null: `problem`.
[[nodiscard]] std::unique_ptr<File> open_packed(Files& files, const std::string& name,
                                                std::string& problem);

}  // namespace bulkhead::audit
