// Which processes have the signed library mapped, looked at beside the control loop: /proc/PID/maps waits for a lock of that
// process's, which it can hold for as long as it likes.
//
// Claim  the loop never waits for a tenant; a process that keeps its look waiting delays itself and its tenant's, and once
//        kMost such looks hang, new ones.
// Proof  each look has a thread of its own, one a process and kMostOfOne a tenant at once; the loop takes results from a mailbox.
// Price  a thread for each process that asks for its first lane where something is signed.
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/status.h"
#include "daemon/duty.h"
#include "daemon/poller.h"

namespace bulkhead::daemon {

class ShimLooks final : public Duty {
 public:
  // Runs on a thread, and may run when this is gone.
  using Look = std::function<bool(std::uint32_t pid)>;
  using Again = std::function<void()>;
  static constexpr std::size_t kMost = 64, kMostOfOne = 4;
  static constexpr std::size_t kMostWaiting =
      64;  // of one tenant; of more the oldest is answered: no

  struct Process {
    std::uint32_t pid = 0;
    std::uint64_t start_ticks = 0;
    std::string tenant;
  };

  ~ShimLooks() override;
  // Once, before anything is asked. kIo.
  [[nodiscard]] Status open(Poller& poller, Look look);
  [[nodiscard]] bool is_open() const { return look_ != nullptr; }
  // True: has() answers for it now. Else `again` is called once, in a tick() in which it does; until it returns.
  [[nodiscard]] bool ask(const Process& process, Again again);
  [[nodiscard]] bool answering() const { return answered_ != nullptr; }
  // What the look that is being answered found; false for every other process.
  [[nodiscard]] bool has(std::uint32_t pid) const;
  // Before the loop runs: waits, at most so long. Nothing: it did not answer by then.
  [[nodiscard]] std::optional<bool> wait(std::uint32_t pid, int most_ms);
  int tick(const Now& now) override;
  const char* name() const override { return "shim"; }
  [[nodiscard]] std::size_t looking() const { return running_.size(); }
  [[nodiscard]] std::size_t waiting() const { return waiting_.size(); }

 private:
  struct Job;
  struct Asked {
    Process process;
    std::vector<Again> again;
    std::shared_ptr<Job> job;  // null: not begun
  };
  static constexpr std::size_t kMostAgain =
      16;  // of one process; of more the oldest is answered: no

  [[nodiscard]] std::shared_ptr<Job> begin(std::uint32_t pid) const;
  [[nodiscard]] bool may_begin(const Asked& asked) const;
  void begin_waiting();
  void make_room(const std::string& tenant);
  void answer(const Asked& asked, bool has);

  Look look_;
  Poller* poller_ = nullptr;
  UniqueFd bell_;
  std::vector<Asked> running_;
  std::deque<Asked> waiting_;
  std::vector<Asked> displaced_;  // answered at the next tick
  const Process* answered_ = nullptr;
  bool answered_has_ = false;
};

}  // namespace bulkhead::daemon
