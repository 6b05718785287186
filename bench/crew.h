// The workers of one measurement: started together, led turn by turn, killed or waited for. Owner of their processes:
// a crew that goes out of scope leaves none behind.
#pragma once
#include <sys/types.h>

#include <string>
#include <vector>

#include "base/fd.h"
#include "base/mapping.h"
#include "bench/lab.h"

namespace bulkhead::bench {

class Crew {
 public:
  Crew(const Lab& lab, const Variant& variant, const Tenant& tenant,
       const std::string& launch = "");
  ~Crew();
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  // Starts one more worker; returns its index. started_ns(i) is CLOCK_MONOTONIC just before.
  unsigned start(const std::string& work, Params params);
  // A further tenant's worker in the same crew.
  unsigned start(const std::string& work, Params params, const Tenant& tenant);
  // Waits until every living worker has said its next step; `poll` runs about every `poll_ms` meanwhile.
  // False: a worker ended or the watchdog passed; error() says which.
  template <class Poll>
  bool all_said(int seconds, int poll_ms, Poll poll) {
    return wait_all(
        seconds, poll_ms, [](void* p) { (*static_cast<Poll*>(p))(); }, &poll);
  }
  bool all_said(int seconds) { return wait_all(seconds, 1000, nullptr, nullptr); }
  bool said(unsigned i, int seconds);
  // The same without a watchdog: true if the worker said its step within `ms`; error() if it ended instead.
  bool said_within(unsigned i, int ms);
  static void pause(int ms);
  void go();  // lets every living worker run its next step
  void go(unsigned i);
  void kill(unsigned i);  // SIGKILL; returns once the kernel reports the death
  // SIGKILL; CLOCK_MONOTONIC ns at which the kernel reported the death (pidfd readable).
  std::uint64_t kill_timed(unsigned i);
  // Waits for all to end. True: all left with 0.
  bool finish(int seconds);

  [[nodiscard]] Block& block(unsigned i) { return *members_[i].map.as<Block>(); }
  [[nodiscard]] std::uint64_t started_ns(unsigned i) const { return members_[i].started_ns; }
  [[nodiscard]] pid_t pid(unsigned i) { return block(i).pid != 0 ? block(i).pid : members_[i].pid; }
  [[nodiscard]] unsigned size() const { return static_cast<unsigned>(members_.size()); }
  [[nodiscard]] const std::string& error() const { return error_; }
  // The workers' own pids, for NVML.
  [[nodiscard]] std::vector<pid_t> pids();

 private:
  struct Member {
    pid_t pid = 0;  // of what was started: the worker, or `bulkhead run` above it
    UniqueFd socket;
    Mapping map;
    std::uint64_t started_ns = 0;
    bool living = true;
    bool said = false;
  };
  bool wait_all(int seconds, int poll_ms, void (*poll)(void*), void* context);
  void note_end(unsigned i);
  void reap(Member& m, bool force);

  const Lab& lab_;
  const Variant& variant_;
  Tenant tenant_;
  std::string launch_;
  std::string error_;
  std::vector<Member> members_;
};

}  // namespace bulkhead::bench
