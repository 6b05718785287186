// What /proc says of one process. Used by the sentinel thread; read_process() also by the control loop, for one process.
#pragma once
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "policy/bypass.h"

namespace bulkhead::daemon {

// The file behind a path or a link of /proc: a running file whatever its path is elsewhere. {0, 0}: unknown. Does not talk
// to a file server.
[[nodiscard]] policy::FileId file_id(const std::string& path);
// nullopt: gone, or another process while it was read. `root` is /proc; a test has its own.
[[nodiscard]] std::optional<policy::SeenProcess> read_process(const std::string& root,
                                                              std::uint32_t pid);
// The same through an open directory of the process, which is that process's for ever: it answers for no other one of the
// same pid.
[[nodiscard]] std::optional<policy::SeenProcess> read_process_at(int directory, std::uint32_t pid);
// The directory of a process below an open /proc. Not ok: it is gone.
[[nodiscard]] UniqueFd open_process_directory(int root, std::uint32_t pid);
// A file below an open directory, `most` bytes of it. "" if there is none.
[[nodiscard]] std::string slurp_at(int directory, const char* path, std::size_t most = 1u << 16);

// nvidia (195), and what /proc/devices calls nvidia-uvm. Not nvidia-caps: monitors hold nothing else.
[[nodiscard]] std::vector<unsigned> gpu_majors(const std::string& root);

}  // namespace bulkhead::daemon
