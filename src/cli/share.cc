#include "cli/share.h"

#include <fmt/format.h>

#include "policy/compute_spec.h"
#include "wire/parse.h"

namespace bulkhead::cli {
namespace {

std::string number_text(std::uint32_t x100, bool borrow) {
  char text[policy::kShareText];
  return policy::format_share(x100, borrow, text);
}

shm::ComputeRules rules_of(const policy::Share& share) {
  shm::ComputeRules out;
  out.floor_x100 = share.x100;
  out.ceiling_x100 = share.borrow ? shm::kWholeDevice_x100 : share.x100;
  return out;
}

std::string read_pace(const char* option, const std::string& text, std::uint32_t& us, bool& has) {
  if (text.empty()) return {};
  if (!policy::parse_pace(text.c_str(), &us))
    return fmt::format("{} '{}' is not a time: {}", option, text, policy::kPaceFix);
  has = true;
  return {};
}

// "12.3 s", "4567 s".
std::string seconds(std::uint64_t ns) {
  return fmt::format("{:.{}f} s", static_cast<double>(ns) / 1e9, ns < 1'000'000'000'000 ? 1 : 0);
}

std::string read_mode(const std::string& text, AskedShare& out) {
  if (text.empty()) return {};
  const std::string why = policy::mode_problem(text.c_str());
  if (!why.empty()) return fmt::format("--mode '{}' {}", text, why);
  out.mode = text == "temporal"    ? wire::ComputeMode::kTemporal
             : text == "spatial"   ? wire::ComputeMode::kSpatial
             : text == "slice"     ? wire::ComputeMode::kSlice
             : text == "partition" ? wire::ComputeMode::kPartition
                                   : wire::ComputeMode::kAuto;
  out.has_mode = true;
  return {};
}

std::string read_priority(const std::string& text, AskedShare& out) {
  if (text.empty()) return {};
  if (text != "latency" && text != "batch")
    return fmt::format("--priority '{}' is neither latency nor batch", text);
  out.priority = text == "latency" ? wire::Priority::kLatency : wire::Priority::kBatch;
  out.has_priority = true;
  return {};
}

}  // namespace

std::string read_share(const ShareOptions& o, bool none, AskedShare& out) {
  if (std::string p = read_mode(o.mode, out); !p.empty()) return p;
  if (std::string p = read_priority(o.priority, out); !p.empty()) return p;
  if (o.mps_group.size() >= sizeof wire::TenantRecord::mps_group)
    return fmt::format("--mps-group '{}' is longer than 31 characters", o.mps_group);
  out.mps_group = o.mps_group;
  policy::Share share;
  if (o.compute == "none" && none) {
    out.has_compute = true;
  } else if (!o.compute.empty()) {
    if (!policy::parse_share(o.compute.c_str(), &share)) {
      return fmt::format("--compute '{}' {}{}", o.compute, policy::share_problem(o.compute.c_str()),
                         none ? ", none for no limit" : "");
    }
    out.has_compute = true;
    out.rules = rules_of(share);
  }
  if (std::string p = read_pace("--compute-burst", o.burst, out.rules.burst_us, out.has_burst);
      !p.empty())
    return p;
  return read_pace("--compute-window", o.window, out.rules.window_us, out.has_window);
}

std::string lower_by_variable(const std::string& value, AskedShare& share) {
  if (value.empty()) return {};
  policy::Share asked;
  if (!policy::parse_share(value.c_str(), &asked)) {
    return fmt::format("BULKHEAD_COMPUTE='{}' {}", value, policy::share_problem(value.c_str()));
  }
  shm::ComputeRules lower = rules_of(asked);
  lower.burst_us = share.rules.burst_us;
  lower.window_us = share.rules.window_us;
  share.rules = shm::lower_of(share.rules, lower);
  share.has_compute = true;
  return {};
}

void put_share(const AskedShare& share, wire::TenantRecord& record, wire::DeviceGrant& grant) {
  if (!share.has_compute) return;
  grant.compute_x100 = share.rules.floor_x100;
  grant.ceiling_x100 = share.rules.limited() ? share.rules.ceiling_x100 : 0;
  if (share.rules.limited() && share.rules.borrows()) record.flags |= wire::kRecordBorrow;
}

void put_pace(const AskedShare& share, wire::TenantRecord& record) {
  if (share.has_burst) record.burst_us = share.rules.burst_us;
  if (share.has_window) record.window_us = share.rules.window_us;
  record.compute_mode = share.mode;
  record.priority = share.priority;
  wire::put_text(record.mps_group, share.mps_group.c_str());
}

std::string sums_text(const shm::ComputeSums& sums) {
  return fmt::format("used {}, held {}, borrowed {}, forgiven {}", seconds(sums.used_ns),
                     seconds(sums.held_ns), seconds(sums.borrowed_ns), seconds(sums.forgiven_ns));
}

std::string share_text(const shm::ComputeRules& rules) {
  if (!rules.limited()) return "no limit";
  std::string out = number_text(rules.floor_x100, rules.borrows());
  if (rules.borrows() && rules.ceiling_x100 < shm::kWholeDevice_x100)
    out += " up to " + number_text(rules.ceiling_x100, false);
  return out;
}

}  // namespace bulkhead::cli
