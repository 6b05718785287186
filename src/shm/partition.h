// DIR/partitions/TENANT: the static MPS partition of a tenant, as the daemon keeps it (docs/spatial.md "Partitions"). Read by the library,
// `run` and `status`, written by the daemon alone. libc only, no heap.
#pragma once
#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "shm/dir.h"

namespace bulkhead::shm {

inline constexpr const char* kPartitionsDir = "partitions";
inline constexpr std::size_t kPartitionValue =
    112;  // "GPU-...", a slash, at most 64 characters, the end
inline constexpr std::size_t kPartitionBytes = 1024;  // of a file

struct PartitionBook {
  char value[kPartitionValue] = {};  // of CUDA_MPS_SM_PARTITION; "": it has none
  std::uint32_t chunks = 0, sms = 0;
  std::uint32_t uid = 0;  // whose control daemon made it
  char group[32] = {};
  char refused[320] = {};  // why it has none: one line, printable
};
// All or nothing: a line that is not understood, a number above 65535 (but the uid), a value of other characters: false.
[[nodiscard]] bool parse_partition(const char* text, std::size_t bytes,
                                   PartitionBook& out) noexcept;
// kNotFound: the daemon has written nothing of this tenant. The file and its directory must be root's or the user's.
[[nodiscard]] Result<PartitionBook> read_partition(const Dir& dir, const char* tenant) noexcept;

}  // namespace bulkhead::shm
