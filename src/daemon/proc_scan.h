// Who holds device nodes open, by /proc. Looking at all descriptors of all processes each second would cost more than all
// else the daemon does; so each round lists the processes, and looks closely
//  - at once at those that were not there the last time (a pid with another inode of its directory is another process);
//  - at those whose number of descriptors is another than when they were last looked at (Linux 6.2 says it without opening
//    anything): marks_a_round of them are asked, in turn; at one whose number always changes in each third round;
//  - at again_a_round others in turn, for who closed as many as it opened.
// A holder is asked each round whether the descriptor that made it one is still a device's. Sentinel thread only.
#pragma once
#include <dirent.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace bulkhead::daemon {

struct ProcScanOptions {
  std::string root = "/proc";
  std::vector<unsigned> majors;   // of character devices that are a GPU's
  std::string simulator;          // directory of the simulator's state; "" = there is none
  unsigned pids_a_round = 256;    // most that are looked at closely
  unsigned marks_a_round = 1024;  // 3,072 processes are gone through in 3 s
  unsigned again_a_round = 16;    // 1,000 processes in a minute
  unsigned fds_a_round = 8192;
  unsigned fds_a_look =
      1024;  // the others of a process that has more: the next time, behind those that wait
  bool marks =
      true;  // false: as on Linux before 6.2; all are looked at in turn, pids_a_round at a time
};

class ProcScan {
 public:
  explicit ProcScan(ProcScanOptions options) : options_(std::move(options)) {}
  // One round. `listed`, ascending: pids that the driver itself tells of; they are not looked at and not in the answer.
  // Returns the other holders: pid and start ticks.
  const std::map<std::uint32_t, std::uint64_t>& round(
      const std::vector<std::uint32_t>& listed = {});
  [[nodiscard]] std::uint64_t looks() const { return looks_; }  // close ones, so far
  [[nodiscard]] std::uint64_t sweeps() const {
    return sweeps_;
  }  // times all were gone through again

 private:
  struct Known {
    std::uint32_t pid = 0;
    ino_t inode = 0;         // of /proc/PID: not used again for another process
    std::uint64_t mark = 0;  // number of descriptors; of the simulator's: size of its memory, pages
    std::uint64_t looked = 0;  // the round
    std::uint32_t next_fd = 0;
    std::uint32_t device_fd = 0;  // that made it a holder
    bool listed = false;
    bool queued = false;
    bool kernel = false;  // a thread of the kernel: holds nothing until it runs a program
    bool holder = false;
  };
  enum class Verdict : std::uint8_t { kNo, kHolds, kUnfinished };

  bool list_processes(const std::vector<std::uint32_t>& listed);
  void keep_known(std::vector<Known>& now, const std::vector<std::uint32_t>& listed);
  void list_state_files();
  void check_holders();
  void compare_marks();
  void go_on();
  void look_at_queue();
  void queue(Known& process);
  Known* find(std::uint32_t pid);
  void look(Known& process);
  void set_holder(Known& process, bool holds);
  Verdict search(Known& process);
  [[nodiscard]] std::optional<std::uint64_t> mark_of(std::uint32_t pid) const;
  [[nodiscard]] bool is_device(const char* link) const;
  [[nodiscard]] bool maps_state(std::uint32_t pid) const;

  struct CloseDir {
    void operator()(DIR* d) const { ::closedir(d); }
  };
  ProcScanOptions options_;
  std::unique_ptr<DIR, CloseDir> proc_;
  bool marks_ = false;
  std::vector<Known> known_;         // ascending by pid
  std::deque<std::uint32_t> queue_;  // to be looked at
  std::size_t mark_at_ = 0, again_at_ = 0;
  unsigned fds_left_ = 0;
  std::map<std::uint32_t, std::uint64_t> holders_;  // pid -> start ticks
  std::vector<std::string> state_files_;            // "MAJOR:MINOR INODE" as in maps
  std::uint64_t rounds_ = 0, looks_ = 0, sweeps_ = 0;
};

}  // namespace bulkhead::daemon
