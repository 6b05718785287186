#include "daemon/grant_book.h"

#include <algorithm>

namespace bulkhead::daemon {
namespace {

using abi::DenyReason;
constexpr std::uint8_t kEvery = 1 << 7;

std::uint8_t needed(const abi::AuditEntry& e) {
  const auto direction = static_cast<unsigned>(abi::direction_of(e));
  if (abi::kind_of(e) == abi::EntryKind::kMap || direction == 0) return 1;
  return static_cast<std::uint8_t>(1u << direction);
}
bool inside(const GrantBook::Rule& r, std::uint64_t at, std::uint64_t bytes) {
  return at >= r.address && bytes <= r.length && at - r.address <= r.length - bytes;
}

}  // namespace

void GrantBook::add(std::uint32_t serial, Rule rule) {
  const std::lock_guard lock{mutex_};
  last_ = nullptr;
  rules_[serial] = std::move(rule);
  if (rules_.size() > kKept) rules_.erase(rules_.begin());
}

void GrantBook::end(std::uint32_t serial, std::int64_t utc_ns) {
  const std::lock_guard lock{mutex_};
  const auto at = rules_.find(serial);
  if (at != rules_.end() && at->second.ended_ns == 0) at->second.ended_ns = utc_ns;
}

std::uint64_t GrantBook::used(std::uint32_t serial) const {
  const std::lock_guard lock{mutex_};
  const auto at = rules_.find(serial);
  return at == rules_.end() ? 0 : at->second.used;
}

DenyReason GrantBook::judge(const Rule& rule, const std::vector<std::string>& devices,
                            const abi::AuditEntry& e) {
  const auto utc_ns = static_cast<std::int64_t>(e.utc_ns);
  if (rule.ended_ns != 0 && utc_ns > rule.ended_ns + kSlack_ns) return DenyReason::kRevoked;
  if (utc_ns > rule.to_ns + kSlack_ns) return DenyReason::kExpired;
  if (utc_ns < rule.from_ns - kSlack_ns) return DenyReason::kNotYetValid;
  const std::uint8_t need = needed(e);
  if ((rule.directions & need) != need) return DenyReason::kDirection;
  // copies: the entry is packed, and nothing may refer to its words
  const std::uint64_t source = e.source, destination = e.destination;
  const std::pair<std::uint8_t, std::uint64_t> sides[] = {{e.source_device, source},
                                                          {e.destination_device, destination}};
  for (const auto& [device, address] : sides) {
    if (device >= abi::kRemoteDevice) continue;  // the host, or another process's
    if (device >= devices.size()) return DenyReason::kDevice;
    if (std::find(rule.devices.begin(), rule.devices.end(), devices[device]) == rule.devices.end())
      return DenyReason::kDevice;
    if (rule.length != 0 && !inside(rule, address, abi::bytes_of(e))) return DenyReason::kRange;
  }
  return DenyReason::kNone;
}

DenyReason GrantBook::check(std::string_view tenant, const std::vector<std::string>& devices,
                            const abi::AuditEntry& e) {
  const abi::EntryKind kind = abi::kind_of(e);
  if (kind != abi::EntryKind::kTransfer && kind != abi::EntryKind::kMap) return DenyReason::kNone;
  if (e.grant == 0) return DenyReason::kNoGrant;
  const std::lock_guard lock{mutex_};
  if (last_ == nullptr || last_serial_ != e.grant) {
    const auto at = rules_.find(e.grant);
    if (at == rules_.end()) return DenyReason::kNoGrant;
    last_ = &at->second;
    last_serial_ = e.grant;
  }
  Rule& rule = *last_;
  if (rule.tenant != tenant) return DenyReason::kForeign;
  if (const DenyReason r = judge(rule, devices, e); r != DenyReason::kNone) return r;
  const std::uint64_t bytes = abi::bytes_of(e);
  rule.used += bytes;
  return rule.bytes == 0 || rule.used <= rule.bytes ? DenyReason::kNone : DenyReason::kBytes;
}

GrantBook::Checked GrantBook::recheck(std::string_view tenant,
                                      const std::vector<std::string>& devices,
                                      const abi::AuditEntry& e) {
  Checked out{abi::decision_of(e), static_cast<DenyReason>(e.reason)};
  if (out.decision != abi::Decision::kAllowed) return out;
  const DenyReason why = check(tenant, devices, e);
  if (why != DenyReason::kNone) out = {abi::Decision::kViolation, why};
  return out;
}

}  // namespace bulkhead::daemon
