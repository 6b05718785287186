// How a tenant's share of its GPUs is enforced: from what was asked, what the operator allows and what self-tests saw. Pure;
// docs/spatial.md "Modes".
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace bulkhead::policy {

enum class ModeAsked : std::uint8_t {
  kAuto,
  kSpatial,
  kSlice,
  kTemporal,
  kPartition
};  // as the record's words
enum class Enforcer : std::uint8_t { kTemporal = 0, kSpatial = 1, kSlice = 2, kPartition = 3 };
enum class Known : std::uint8_t { kUnknown, kWorks, kNo };
[[nodiscard]] const char* enforcer_name(Enforcer enforcer) noexcept;

// One GPU of the tenant.
struct ModeDevice {
  std::string gpu;               // for messages
  std::uint32_t share_x100 = 0;  // 0: no share
  Known spatial = Known::kUnknown;
  Known slice = Known::kUnknown;
  std::uint32_t sms = 0, sm_unit = 0;  // of the self-test; 0: not counted
  std::uint32_t sm_least = 0;          // what the least percentage gets; 0: a unit
  Known partitions = Known::kUnknown;
  std::uint32_t chunks = 0, chunk_sms = 0;  // 0: not known to work
};
struct ModeWish {
  ModeAsked asked = ModeAsked::kAuto;
  bool borrows = false;
  bool batch = true;
  std::string group;  // "": none
};
struct ModeRules {
  bool mps_enabled = false;
  std::vector<std::string> groups;
  std::vector<std::string> partition_groups;  // of groups
};
struct ModeRuling {
  Enforcer enforcer = Enforcer::kTemporal;
  // Why what was asked is not in force, with what is possible: one line. "": it is; always "" for auto and temporal.
  std::string problem;
};
[[nodiscard]] ModeRuling rule_mode(const ModeWish& wish, const ModeRules& rules,
                                   std::span<const ModeDevice> devices);

}  // namespace bulkhead::policy
