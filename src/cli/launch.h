// Starts the command and stands in for it: its exit code, its signals.
#pragma once
#include <sys/types.h>

#include <string>
#include <vector>

#include "base/fd.h"

namespace bulkhead::cli {

struct Child {
  pid_t pid = -1;
  int exec_errno = 0;  // not 0: it could not be started (and is gone again)
};
// Blocks the signals that wait_for() passes on. Before any library that starts threads is loaded: a
// thread that does not block them would take them instead of us. Idempotent; start() does it too.
void block_signals();
// Runs `command` (found on PATH) with our environment. Blocks the signals that wait_for() passes on
// before it forks, so that none is lost; the child gets our old mask. `keep_fd` >= 0 is inherited.
[[nodiscard]] Child start(const std::vector<std::string>& command, int keep_fd = -1);
// Waits for its end and passes INT, TERM, HUP, QUIT, USR1, USR2, TSTP and CONT on, if a process
// sent them; those of the terminal reach the child by themselves. Returns its exit code, or 128 +
// the signal.
// What comes through `drain_fd` (non-blocking; -1: none) meanwhile is appended to `into`.
[[nodiscard]] int wait_for(const Child& child, int drain_fd = -1, std::string* into = nullptr);
// 126 or 127 for a command that could not be started, with its line on stderr.
[[nodiscard]] int say_not_started(const std::string& command, int exec_errno);

}  // namespace bulkhead::cli
