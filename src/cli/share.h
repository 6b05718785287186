// A share of a GPU's time as `run` and `set` are asked for it: options and BULKHEAD_COMPUTE in, rules out.
#pragma once
#include <string>

#include "shm/compute.h"
#include "wire/record.h"

namespace bulkhead::cli {

// For who asks for a share with + where no daemon lends (docs/compute.md, 'Who may use what is idle').
inline constexpr const char* kNoLending =
    "without a daemon nobody lends idle GPU time: a share with + is held to what stands before it";

// For who asks for priority where nobody hands out beacons.
inline constexpr const char* kNoGate =
    "no daemon, so nobody waits for --priority latency: start bulkheadd";

// As written; empty: not said.
struct ShareOptions {
  std::string compute;    // --compute
  std::string burst;      // --compute-burst
  std::string window;     // --compute-window
  std::string mode;       // --mode
  std::string priority;   // --priority
  std::string mps_group;  // --mps-group
  [[nodiscard]] bool any() const {
    return !compute.empty() || !burst.empty() || !window.empty() || !mode.empty() ||
           !priority.empty();
  }
};

struct AskedShare {
  bool has_compute = false;  // else nothing was said of it, and rules.floor_x100 is 0
  shm::ComputeRules rules;   // 0%: "none"
  bool has_burst = false;    // else the usual, or what is there
  bool has_window = false;
  wire::ComputeMode mode = wire::ComputeMode::kAuto;
  bool has_mode = false;
  wire::Priority priority = wire::Priority::kBatch;
  bool has_priority = false;
  std::string mps_group;  // "": none
  [[nodiscard]] bool wants_idle_time() const {
    return has_compute && rules.limited() && rules.borrows();
  }
};
// One line, or "". `none`: whether "none" may be said for no limit.
[[nodiscard]] std::string read_share(const ShareOptions& options, bool none, AskedShare& out);
// BULKHEAD_COMPUTE only lowers what the option said; alone it is the share that is asked for, which is less than all.
[[nodiscard]] std::string lower_by_variable(const std::string& value, AskedShare& share);

// Into a record's fields: of one grant, and of all of them.
void put_share(const AskedShare& share, wire::TenantRecord& record, wire::DeviceGrant& grant);
void put_pace(const AskedShare& share, wire::TenantRecord& record);
// "25%", "25%+", "25%+ up to 80%", "no limit".
[[nodiscard]] std::string share_text(const shm::ComputeRules& rules);

// "used 12.3 s, held 4567 s, borrowed ..., forgiven ...".
[[nodiscard]] std::string sums_text(const shm::ComputeSums& sums);

}  // namespace bulkhead::cli
