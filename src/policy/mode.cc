#include "policy/mode.h"

#include <algorithm>

#include "policy/compute_spec.h"
#include "policy/partition.h"
#include "policy/spatial.h"

namespace bulkhead::policy {
namespace {

constexpr const char* kElse = "; or use auto or temporal";

std::string percent(std::uint32_t x100) {
  char text[kShareText];
  return format_share(x100, false, text);
}

std::string groups_text(const std::vector<std::string>& groups) {
  if (groups.empty()) return "it has none";
  std::string out = "it has ";
  for (std::size_t i = 0; i < groups.size(); ++i) out += (i == 0 ? "" : ", ") + groups[i];
  return out;
}

bool has(const std::vector<std::string>& groups, const std::string& group) {
  return std::find(groups.begin(), groups.end(), group) != groups.end();
}

// What stands in the way of any share that MPS holds.
std::string mps_problem(const std::string& mode, const ModeWish& wish, const ModeRules& rules) {
  if (!rules.mps_enabled)
    return "mode " + mode +
           " needs MPS, which the configuration does not allow: set [mps] enabled = true and a "
           "group";
  if (wish.group.empty())
    return "mode " + mode +
           " needs an mps_group, for its tenants are one failure domain: name one of [mps] "
           "groups (" +
           groups_text(rules.groups) + ")";
  if (!has(rules.groups, wish.group))
    return "mps_group " + wish.group + " is not in [mps] groups: " + groups_text(rules.groups);
  if (wish.borrows) return "a " + mode + " share cannot borrow: leave the + out";
  return {};
}

// What stands in the way of a partition, or "".
std::string partition_problem(const ModeWish& wish, const ModeRules& rules,
                              std::span<const ModeDevice> devices) {
  if (std::string p = mps_problem("partition", wish, rules); !p.empty()) return p;
  if (!has(rules.partition_groups, wish.group))
    return "mps_group " + wish.group +
           " is not in [mps] partition_groups: " + groups_text(rules.partition_groups);
  if (devices.size() != 1)
    return "mode partition is of one GPU, and this tenant has " + std::to_string(devices.size());
  const ModeDevice& d = devices[0];
  if (d.share_x100 == 0) return "mode partition needs a share of " + d.gpu + ": give --compute";
  if (d.partitions == Known::kUnknown || (d.partitions != Known::kNo && d.chunks == 0))
    return "mode partition was not tested on " + d.gpu +
           " with this driver, or its answers were not understood ('bulkhead doctor' shows it): "
           "run 'bulkhead doctor --self-test' while it is idle";
  if (d.partitions == Known::kNo)
    return "the self-test saw that this driver has no partitions of " + d.gpu +
           " ('bulkhead doctor' shows it)";
  if (chunks_of_share(d.share_x100, d.chunks) == 0)
    return percent(d.share_x100) + " of the " + std::to_string(d.chunks) + " chunks of " +
           std::to_string(d.chunk_sms) + " multiprocessors of " + d.gpu +
           " is less than one: ask for at least " + percent(share_of_chunks_x100(1, d.chunks));
  return {};
}

// What stands in the way of a spatial share, or "".
std::string spatial_problem(const ModeWish& wish, const ModeRules& rules,
                            std::span<const ModeDevice> devices) {
  if (std::string p = mps_problem("spatial", wish, rules); !p.empty()) return p;
  if (has(rules.partition_groups, wish.group))
    return "mps_group " + wish.group +
           " is in [mps] partition_groups, where nobody is without a partition: use mode "
           "partition, or another group";
  for (const ModeDevice& d : devices) {
    if (d.share_x100 == 0) return "mode spatial needs a share of " + d.gpu + ": give --compute";
    if (d.spatial == Known::kUnknown)
      return "mode spatial was not tested on " + d.gpu +
             " with this driver: run 'bulkhead doctor --self-test' while it is idle";
    if (d.spatial == Known::kNo)
      return "the self-test saw that MPS percentages do not bind on " + d.gpu +
             " ('bulkhead doctor' shows it)";
    const std::uint32_t least = std::max(d.sm_unit, d.sm_least);
    if (sms_of_share(d.share_x100, d.sms, d.sm_unit) < std::max(least, 1u))
      return percent(d.share_x100) + " of the " + std::to_string(d.sms) + " multiprocessors of " +
             d.gpu + " is less than the " + std::to_string(least) +
             " MPS hands out: ask for at least " + percent(least_share_x100(d.sms, least));
  }
  return {};
}

std::string slice_problem(const ModeWish& wish, std::span<const ModeDevice> devices) {
  if (!wish.batch)
    return "mode slice shortens a batch tenant's slices: this one's priority is latency";
  for (const ModeDevice& d : devices) {
    if (d.slice == Known::kUnknown)
      return "mode slice was not tested on " + d.gpu +
             " with this driver: run 'bulkhead doctor --self-test' while it is idle";
    if (d.slice == Known::kNo)
      return "the self-test saw that time slices do not act on " + d.gpu +
             " ('bulkhead doctor' shows it)";
  }
  return {};
}

}  // namespace

const char* enforcer_name(Enforcer enforcer) noexcept {
  return enforcer == Enforcer::kSpatial     ? "spatial"
         : enforcer == Enforcer::kSlice     ? "slice"
         : enforcer == Enforcer::kPartition ? "partition"
                                            : "temporal";
}

ModeRuling rule_mode(const ModeWish& wish, const ModeRules& rules,
                     std::span<const ModeDevice> devices) {
  switch (wish.asked) {
    case ModeAsked::kTemporal:
      return {};
    case ModeAsked::kAuto:
      if (has(rules.partition_groups, wish.group)) {
        if (!partition_problem(wish, rules, devices).empty()) return {};
        return {Enforcer::kPartition, {}};
      }
      if (devices.empty() || !spatial_problem(wish, rules, devices).empty()) return {};
      return {Enforcer::kSpatial, {}};
    case ModeAsked::kSpatial:
      if (std::string p = spatial_problem(wish, rules, devices); !p.empty())
        return {Enforcer::kTemporal, p + kElse};
      return {Enforcer::kSpatial, {}};
    case ModeAsked::kPartition:
      if (std::string p = partition_problem(wish, rules, devices); !p.empty())
        return {Enforcer::kTemporal, p + kElse};
      return {Enforcer::kPartition, {}};
    case ModeAsked::kSlice:
      if (std::string p = slice_problem(wish, devices); !p.empty())
        return {Enforcer::kTemporal, p + kElse};
      return {Enforcer::kSlice, {}};
  }
  return {};
}

}  // namespace bulkhead::policy
