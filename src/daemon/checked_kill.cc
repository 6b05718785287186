#include "daemon/checked_kill.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "daemon/proc.h"

namespace bulkhead::daemon {
namespace {

class RealKillWorld final : public KillWorld {
 public:
  UniqueFd open_process(std::uint32_t pid) override {
    return UniqueFd{static_cast<int>(::syscall(SYS_pidfd_open, static_cast<pid_t>(pid), 0))};
  }
  std::optional<policy::SeenProcess> read(std::uint32_t pid) override {
    return read_process("/proc", pid);
  }
  int send_kill(int pidfd) override {
    return ::syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, nullptr, 0) == 0 ? 0 : errno;
  }
};

}  // namespace

KillWorld& real_kill_world() {
  static RealKillWorld world;
  return world;
}

KillOutcome checked_kill(KillWorld& world, const policy::SeenProcess& decided,
                         const policy::BypassRules& rules) {
  if (!policy::may_kill(decided, rules)) return KillOutcome::kNotAllowed;
  const UniqueFd pidfd = world.open_process(decided.pid);
  if (!pidfd.ok()) return KillOutcome::kGone;
  const auto now = world.read(decided.pid);
  if (!now) return KillOutcome::kGone;
  if (now->pid != decided.pid || now->start_ticks != decided.start_ticks ||
      now->uid != decided.uid || now->exe != decided.exe) {
    return KillOutcome::kAnother;
  }
  if (!policy::may_kill(*now, rules)) return KillOutcome::kNotAllowed;
  const int error_number = world.send_kill(pidfd.get());
  if (error_number == ESRCH) return KillOutcome::kGone;
  return error_number == 0 ? KillOutcome::kKilled : KillOutcome::kFailed;
}

}  // namespace bulkhead::daemon
