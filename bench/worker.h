// The measured side: `bulkhead-bench --worker CASE key=value...`, started by the bench with the variant's environment.
#pragma once
#include "bench/api.h"
#include "bench/link.h"

namespace bulkhead::bench {

struct Worker {
  Api cu;
  Params params;
  Block* out = nullptr;

  // Tells the bench that a step is done, and waits for its byte. False: the bench is gone.
  void say(char step) const noexcept;
  [[nodiscard]] bool wait() const noexcept;
  bool turn(char step) const noexcept { return say(step), wait(); }
  // Notes what failed and with which code; returns 1, the exit status.
  int fail(const char* what, CUresult code) const noexcept;
  // `spans(n)` measures n spans; with it in hand the worker takes its turns: "rounds" of them, on core "core" if it is named, each when the bench
  // says so. False: the bench is gone or spans() failed. The calling thread alone is bound: the library's threads are begun.
  template <class Spans>
  [[nodiscard]] bool take_turns(std::uint64_t spans_in_all, Spans spans) {
    const std::uint64_t rounds = params.number("rounds", 1);
    stay_on_core();
    for (std::uint64_t r = 0; r < rounds; ++r)
      if (!turn('r') || !spans(spans_in_all / rounds + 1)) return false;
    return turn('d');
  }
  void stay_on_core() const noexcept;
  // The log's next entry: a figure of this round, ns, kept as `bytes` in ps.
  void log_round(double ns) const noexcept;
  // Driver opened, primary context current, first kernel run. False: fail() has been called.
  [[nodiscard]] bool begin();
};

using WorkFunction = int (*)(Worker&);
struct Work {
  const char* name;
  WorkFunction run;
};

// The cases by file.
int work_calls(Worker& w);  // work_memory.cc
int work_async(Worker& w);
int work_denied(Worker& w);
int work_member(Worker& w);
int work_start(Worker& w);  // work_start.cc
int work_gate(Worker& w);
int work_trade(Worker& w);   // work_trade.cc
int work_copies(Worker& w);  // work_copies.cc
int work_log(Worker& w);     // work_log.cc
int work_fill(Worker& w);    // work_quota.cc
int work_export(Worker& w);
int work_launch(Worker& w);  // work_compute.cc
int work_load(Worker& w);
int work_request(Worker& w);
int work_closed(Worker& w);  // work_density.cc
int work_race(Worker& w);    // work_crash.cc
int work_hold(Worker& w);
int work_take(Worker& w);
int work_churn(Worker& w);
int work_probe(Worker& w);
int work_steady(Worker& w);  // work_daemon.cc

// What the rest of `main` runs for --worker. Exit status: 0 measured, 1 failed (the block says how).
int worker_main(int argc, char** argv);

}  // namespace bulkhead::bench
