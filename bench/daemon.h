// A bulkheadd of the bench's own, from the same build tree, serving the lab's directory.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "bench/lab.h"

namespace bulkhead::bench {

class Daemon {
 public:
  // Starts it with these tenants in its configuration, and `more` behind the last one's lines, and waits until it answers.
  // error(): why it does not; "" is good.
  Daemon(const Lab& lab, const std::vector<Tenant>& tenants, const std::string& more = "");
  ~Daemon();  // SIGTERM, then waits; SIGKILL after a minute
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  [[nodiscard]] const std::string& error() const { return error_; }
  [[nodiscard]] pid_t pid() const { return pid_; }
  // The process that shows metrics and console, its only child. 0: there is none.
  [[nodiscard]] pid_t sight() const;

 private:
  [[nodiscard]] bool answers() const;
  [[nodiscard]] bool ended();
  pid_t pid_ = 0;
  std::string directory_, error_;
};

// What a daemon of the lab's directory promised and the next one would keep, when none runs.
void forget_promises(const Lab& lab);

// Nanoseconds of CPU that a living process has used, all its threads together. 0: it is gone.
[[nodiscard]] std::uint64_t cpu_ns_of(pid_t pid);
// VmRSS, bytes: private memory and what it has mapped of shared files. 0: it is gone.
[[nodiscard]] std::uint64_t resident_bytes_of(pid_t pid);

}  // namespace bulkhead::bench
