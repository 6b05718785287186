// SightChild: keeps one sight child running. A duty of the control loop: starting it is one fork, and a turn asks the
// kernel once whether it still lives.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "daemon/duty.h"
#include "daemon/sight/sight.h"

namespace bulkhead::daemon {

class SightChild : public Duty {
 public:
  struct Setup {
    std::string directory;           // DIR: metrics.sock and console.url lie there
    std::uint16_t metrics_port = 0;  // 0 = not on loopback
    std::uint16_t console_port = 0;  // 0 = no console
    bool hami_names = false;
    bool dcgm_names = false;
    std::string program = "/proc/self/exe";  // run as `program --sight`
  };
  SightChild() = default;
  ~SightChild() override;  // ends the child

  // Opens the sockets, then starts the child. `picture_fd`: the picture's memfd, kept by the caller, or a descriptor of it
  // opened read-only. Problem: one line with what to change.
  [[nodiscard]] Outcome<bool> start(const Setup& setup, int picture_fd);
  // What a child by another setup needs: sockets that are there already are kept, so that two may change ports. Nothing changes yet
  // but console.url. Problem: one line with what to change.
  struct Prepared {
    Setup setup;
    SightOptions options;
    std::vector<UniqueFd> sockets;
    std::vector<Listener> listeners;
    bool changes = false;  // anything at all
  };
  [[nodiscard]] Outcome<Prepared> prepare(const Setup& setup) const;
  // Ends the child and starts one by the new setup, if it changes anything. Never waits.
  void take(Prepared prepared);
  [[nodiscard]] const Setup& setup() const { return setup_; }

  // Restarts it if it has ended: after 1 s, 2 s, 4 s ... 60 s; from the start again once it has lived for a minute.
  int tick(const Now& now) override;
  const char* name() const override { return "sight"; }
  // SIGTERM and no restart; waits for nothing.
  void stop();
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] unsigned restarts() const { return restarts_; }

 private:
  [[nodiscard]] Outcome<bool> launch();
  void adopt(Prepared prepared);

  Setup setup_;
  SightOptions options_;
  std::vector<UniqueFd> sockets_;
  std::vector<Listener> listeners_;
  UniqueFd picture_;
  pid_t pid_ = 0;
  std::vector<pid_t> leaving_;  // told to end, not gone yet
  unsigned restarts_ = 0;
  std::uint64_t started_ns_ = 0;
  std::uint64_t due_ns_ = 0;
  std::uint64_t pause_ns_ = 0;
  bool stopped_ = true;
};

}  // namespace bulkhead::daemon
