// What /proc says: one process, and who holds device nodes open. Used by the sentinel thread; read_process() also by the
// control loop, for one process.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "policy/bypass.h"

namespace bulkhead::daemon {

// The file behind a path or a link of /proc: a running file whatever its path is elsewhere. {0, 0}: unknown. Does not talk
// to a file server.
[[nodiscard]] policy::FileId file_id(const std::string& path);
// nullopt: gone, or another process while it was read. `root` is /proc; a test has its own.
[[nodiscard]] std::optional<policy::SeenProcess> read_process(const std::string& root,
                                                              std::uint32_t pid);

struct ProcScanOptions {
  std::string root = "/proc";
  std::vector<unsigned> majors;  // of character devices that are a GPU's
  std::string simulator;         // directory of the simulator's state; "" = there is none
  unsigned pids_a_round = 256;   // 10,000 processes are gone through in 40 s
  unsigned fds_a_round = 8192;
};
// nvidia (195), and what /proc/devices calls nvidia-uvm. Not nvidia-caps: monitors hold nothing else.
[[nodiscard]] std::vector<unsigned> gpu_majors(const std::string& root);

class ProcScan {
 public:
  explicit ProcScan(ProcScanOptions options) : options_(std::move(options)) {}
  // Looks at the next pids_a_round processes and again at the known holders. Returns the holders, by pid.
  const std::map<std::uint32_t, std::uint64_t>& round();
  [[nodiscard]] std::uint64_t sweeps() const { return sweeps_; }  // times all were gone through

 private:
  [[nodiscard]] bool holds(std::uint32_t pid, unsigned& fds_left) const;
  [[nodiscard]] bool is_device(const std::string& link) const;
  [[nodiscard]] bool maps_state(std::uint32_t pid) const;
  void list_processes();
  void list_state_files();

  ProcScanOptions options_;
  std::vector<std::uint32_t> pids_;  // of the sweep that goes on
  std::size_t at_ = 0;
  std::map<std::uint32_t, std::uint64_t> holders_;  // pid -> start ticks
  std::vector<std::string> state_files_;            // "MAJOR:MINOR INODE" as in maps
  std::uint64_t sweeps_ = 0;
};

}  // namespace bulkhead::daemon
