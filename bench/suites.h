// The suites, by row of the targets. Each begins its own sections of the results and prints them when done.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "bench/lab.h"
#include "bench/outside.h"
#include "bench/results.h"

namespace bulkhead::bench {

struct Bench {
  Lab lab;
  Outside outside;
  Results results;
};

inline constexpr std::uint64_t kQuota = 10 * kGiB;  // of the tenants that rows 5 and 6 fill

void suite_memory(Bench& b);   // suite_memory.cc
void suite_hook(Bench& b);     // rows 1, 2, 4
void suite_start(Bench& b);    // row 3
void suite_quota(Bench& b);    // row 5
void suite_crash(Bench& b);    // row 6
void suite_compute(Bench& b);  // rows 1 (launches), 7 to 12
void suite_launch(Bench& b);   // row 1, launches
// Kernels of one length: their rounds, and how many a second there are with nobody else and no share.
struct Load {
  const char* name;
  std::uint64_t ns = 0, rounds = 0;
  double solo = 0;
};
void compute_changes(Bench& b, const std::vector<Load>& loads);  // rows 9 and 12
// Whether it would measure anything with kernels of this name.
[[nodiscard]] bool changes_asked(const Bench& b, const char* kernels);
// Row 10, the gate: requests beside another's kernels, ours alone, with the gate and without.
struct GateCase {
  std::string names;
  std::uint64_t request_rounds = 0, period_us = 0, hog_rounds = 0, hog_ns = 0;
};
void suite_gate(Bench& b, const GateCase& what);
// Row 13: requests of `rounds` by tenants of one share, added until one fails.
[[nodiscard]] std::string density_case(const Bench& b, const std::string& kernels);
void suite_density(Bench& b, std::uint64_t rounds, const std::string& kernels);
void suite_admission(Bench& b);  // the protocol alone, over shared memory
void suite_audit(Bench& b);      // rows 16 and 19
void lanes_to_disk(Bench& b);    // row 16: the whole pipeline, suite_lanes.cc
void suite_transfer(Bench& b);   // row 1, transfers
void suite_trade(Bench& b);      // row 18
void suite_grant(Bench& b);      // row 17: the check of a handle, over memory
void suite_daemon(Bench& b);     // what bulkheadd takes
// Asks in a probe process of each variant whether a request above the limit is refused; notes it in Variant::inert.
void verify_limits(Bench& b);

struct GateOptions {
  std::string file;     // bench/gates.json
  bool update = false;  // write the counts as the new budgets
};
// Instructions in libbulkhead.so a call, by callgrind on the simulator. 0: within the budgets; 1: over; 2: not counted.
int run_gate(Bench& b, const GateOptions& options);

}  // namespace bulkhead::bench
