// The suites, by row of the targets. Each begins its own sections of the results and prints them when done.
#pragma once
#include <cstdint>
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
// Kernels of one length: their rounds, and how many a second there are with nobody else and no share.
struct Load {
  const char* name;
  std::uint64_t ns = 0, rounds = 0;
  double solo = 0;
};
void compute_changes(Bench& b, const std::vector<Load>& loads);  // rows 9 and 12
// Row 10, the gate: requests of `request_rounds` beside kernels of `hog_rounds`, ours alone, with the gate and without.
void suite_gate(Bench& b, std::uint64_t request_rounds, std::uint64_t hog_rounds,
                std::uint64_t hog_ns, const std::string& names);
// Row 13: requests of `rounds` by tenants of one share, added until one fails.
[[nodiscard]] std::string density_case(const Bench& b, const std::string& kernels);
void suite_density(Bench& b, std::uint64_t rounds, const std::string& kernels);
void suite_admission(Bench& b);  // the protocol alone, over shared memory
void suite_audit(Bench& b);      // rows 16 and 19, without lanes
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
