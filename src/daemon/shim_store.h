// The verified copy of the library (docs/compliance/grants.md, 'Signed shim'): made at the start from bytes whose signature was checked, where
// only root or the daemon's user can write. `run` preloads that path, never a descriptor: programs close those.
#pragma once
#include <cstdint>
#include <string>

#include "base/outcome.h"

namespace bulkhead::daemon {

inline constexpr const char* kShimManifest = "/usr/lib/bulkhead/shim.json";
inline constexpr const char* kShimFile = "shim";  // in DIR: the path, one line

struct ShimCopy {
  std::string path, sha256, version;
  std::uint64_t device = 0, inode = 0;  // as /proc/PID/maps shows it
};
// Reads manifest, manifest.p7s and the library beside them; checks this daemon's own file if the manifest names it. The problem is one line;
// nothing is copied then.
[[nodiscard]] Outcome<ShimCopy> prepare_shim(const std::string& root_file,
                                             const std::string& manifest_file,
                                             const std::string& state);
// Says to `run` which one to take; "" = none is signed here. The problem, or "".
[[nodiscard]] std::string publish_shim(int dir_fd, const std::string& path);
// Whether that process has the copy mapped. False also for one that cannot be looked at.
[[nodiscard]] bool has_shim(std::uint32_t pid, const ShimCopy& shim);

}  // namespace bulkhead::daemon
