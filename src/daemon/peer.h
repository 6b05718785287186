// Who is at the other end of a socket: what the kernel says, with a pidfd of that very process. No field of a message is asked.
#pragma once
#include "base/fd.h"
#include "base/status.h"
#include "daemon/ledger.h"

namespace bulkhead::daemon {

struct Identified {
  Peer peer;
  UniqueFd
      pidfd;  // not ok() if the peer's process is in a pid namespace that cannot be seen from here
};

// SO_PEERCRED and SO_PEERPIDFD (Linux 6.5), else pidfd_open. Start time and cgroup are read after the pidfd was opened, and the pidfd is
// looked at again after that: they are of the process the pidfd stands for. kNotFound: it has ended; kIo. Reads
// /proc of that one process; does not wait.
[[nodiscard]] Result<Identified> identify(int socket) noexcept;

// The path below the root in the text of /proc/PID/cgroup: of the unified hierarchy, else of the first one. "" = none.
[[nodiscard]] std::string cgroup_of(const std::string& text);
// Field 22 of /proc/PID/stat; 0 = malformed.
[[nodiscard]] std::uint64_t start_ticks_of(const std::string& text);

}  // namespace bulkhead::daemon
