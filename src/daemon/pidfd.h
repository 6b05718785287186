// What /proc and pidfds say of one process. For the daemon; each is a few system calls.
#pragma once
#include <sys/types.h>

#include <cstdint>

#include "base/fd.h"

namespace bulkhead::daemon {

// pidfd_open(2) of a process of our own pid namespace; errno is kept. Readable once the process has ended.
[[nodiscard]] UniqueFd open_pidfd(std::uint32_t pid);
// Field 22 of /proc/PID/stat; 0: there is no such process.
[[nodiscard]] std::uint64_t start_ticks_of(std::uint32_t pid);
// Of this process: user and system time, and memory that is resident.
struct SelfUse {
  std::uint64_t cpu_ns = 0, rss_bytes = 0;
};
[[nodiscard]] SelfUse self_use();

}  // namespace bulkhead::daemon
