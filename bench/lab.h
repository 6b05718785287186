// Where a measurement runs: which driver, which variants (native, bulkhead, named rivals), which directories, and how
// a worker of a variant is started.
#pragma once
#include <string>
#include <vector>

#include "bench/link.h"

namespace bulkhead::bench {

struct Variant {
  enum class Kind { kNative, kBulkhead, kRival } kind = Kind::kNative;
  std::string name;
  std::string library;  // preloaded; empty for native
  std::vector<std::string>
      env;            // of a rival: NAME=VALUE with %l %b %M %c %d %t (docs/benchmarks.md)
  std::string inert;  // why the limit was not seen to act; empty: verified
};

// A group of processes under one quota.
struct Tenant {
  std::string name;
  std::string dir;  // scratch of its own, removed with it
  std::uint64_t quota_bytes = 0;
  unsigned compute_percent = 0;  // 0: no share was asked for
  bool compute_borrows = false;  // "25%+"
  bool latency = false;          // --priority latency; only beside a daemon
  bool audited = false;          // its transfers are recorded; only by a daemon's configuration
};

struct Lab {
  std::string exe;    // bulkhead-bench itself
  std::string build;  // build/<preset>; of an installed bench what its parts are below
  // The parts it measures, beside it in the build tree or as installed (docs/benchmarks.md).
  std::string cli, daemon, library, simulator, stub;
  std::string sim;          // directory of the simulator; empty: the machine's own driver
  std::string sim_profile;  // BULKHEAD_SIM
  std::string scratch;      // 0700, of this run
  std::string driver, device;
  std::uint64_t device_bytes = 0;
  std::vector<Variant> variants;  // native first
  bool quick = false;
  bool timed = false;  // on the simulator: work takes its time
  unsigned repeats = 5;
  unsigned load_s = 0;                // how long a load of `compute` runs; 0: as the mode says
  std::uint64_t deadline_ns = ~0ull;  // CLOCK_MONOTONIC; past it no further repeat or case is begun
  std::string only;            // a case whose name holds none of these texts is left out: A|B|...
  std::string launch = "env";  // env: preload and variables; run: through `bulkhead run`

  [[nodiscard]] bool late() const;
  [[nodiscard]] bool asked(const std::string& name) const;
  [[nodiscard]] Tenant make_tenant(std::uint64_t quota_bytes) const;
  // Ends the tenant's traces in the directories, so that its limit counts no longer.
  void drop_tenant(const Tenant& t) const;
  // The command line and environment of one worker. launch "": the lab's own.
  [[nodiscard]] std::vector<std::string> command(const Variant& v, const Tenant& t,
                                                 const std::string& work, const Params& p,
                                                 const std::string& launch) const;
  [[nodiscard]] std::vector<std::string> environment(const Variant& v, const Tenant& t,
                                                     const std::string& launch) const;
};

// Finds the parts around the executable, chooses the driver (the simulator if `sim` names a profile, or if there is
// no GPU; says which on stderr) and fills everything but variants. False: one line on stderr said why.
[[nodiscard]] bool open_lab(Lab& lab, const std::string& sim);
// Only the directories: for suites that need no driver.
[[nodiscard]] bool open_scratch(Lab& lab);
void close_lab(const Lab& lab);
// The same lab on another simulated GPU, in directories of its own, so that nothing learned about one machine is used
// for the other.
[[nodiscard]] Lab simulated_machine(const Lab& lab, const std::string& name,
                                    std::uint64_t total_bytes, std::uint64_t context_bytes);

// The same lab over the driver that does nothing (stub_driver.cc).
[[nodiscard]] Lab stub_machine(const Lab& lab);

}  // namespace bulkhead::bench
