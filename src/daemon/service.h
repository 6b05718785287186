// What the process manager and the operator's signals want of us: signalfd, sd_notify by hand (sd_notify(3): datagrams
// to $NOTIFY_SOCKET), the watchdog, the lock file, the limit of descriptors.
#pragma once
#include <functional>
#include <string>

#include "base/fd.h"
#include "base/outcome.h"
#include "daemon/duty.h"
#include "daemon/poller.h"

namespace bulkhead::daemon {

// Blocks TERM, INT and HUP for the whole process, ignores PIPE. First thing in main(): NVML starts threads of its own when
// it is loaded, and a signal goes to any thread that does not block it.
void block_signals();
// Reads them; null handlers are not called.
struct SignalHandlers {
  std::function<void()> stop, reload;
};
class Signals {
 public:
  [[nodiscard]] Status open(Poller& poller, SignalHandlers handlers);

 private:
  UniqueFd fd_;
  SignalHandlers handlers_;
};

// Tells the service manager; without $NOTIFY_SOCKET nothing. Never waits.
void notify(const std::string& state);
// WATCHDOG=1 at half the interval that $WATCHDOG_USEC asks for.
class Watchdog : public Duty {
 public:
  Watchdog();
  int tick(const Now& now) override;
  const char* name() const override { return "watchdog"; }

 private:
  std::uint64_t every_ns_ = 0;
  std::uint64_t next_ns_ = 0;
};

// DIR/daemon.lock, flocked for as long as the descriptor lives (the kernel drops it with the process: what a dead
// daemon left written in it is harmless). The problem names the pid of the daemon that has it.
[[nodiscard]] Outcome<UniqueFd> lock_directory_for_daemon(int dir, const std::string& path);
// Raises the soft limit of descriptors to the hard one. Returns what it is then.
std::uint64_t raise_descriptor_limit();

}  // namespace bulkhead::daemon
