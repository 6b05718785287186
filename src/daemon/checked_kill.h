// Ends a process that uses a GPU around the library (invariant D7). The order is the point: the descriptor first, then
// everything that was decided on is read again, then the signal goes through the descriptor. A pid that was reused
// before the descriptor was opened fails the check; one that is reused later is not what the descriptor names.
#pragma once
#include <cstdint>
#include <optional>

#include "base/fd.h"
#include "policy/bypass.h"

namespace bulkhead::daemon {

enum class KillOutcome : std::uint8_t {
  kKilled,
  kGone,        // ended by itself
  kAnother,     // the pid is somebody else's now, or it became another program or user
  kNotAllowed,  // the rules do not permit it any more
  kFailed,      // the kernel refused
};

// The kernel, as far as a kill needs it; a test has one in which pids are reused between any two steps.
class KillWorld {
 public:
  virtual ~KillWorld() = default;
  virtual UniqueFd open_process(std::uint32_t pid) = 0;  // not ok(): gone
  virtual std::optional<policy::SeenProcess> read(std::uint32_t pid) = 0;
  virtual int send_kill(int pidfd) = 0;  // 0 or errno
};
[[nodiscard]] KillWorld& real_kill_world();

// Control loop: a handful of system calls, none of which waits.
[[nodiscard]] KillOutcome checked_kill(KillWorld& world, const policy::SeenProcess& decided,
                                       const policy::BypassRules& rules);

}  // namespace bulkhead::daemon
