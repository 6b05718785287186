#include "audit/grant_check.h"

#include <algorithm>

namespace bulkhead::audit {
namespace {

constexpr std::uint8_t bit(abi::Direction d) noexcept {
  return static_cast<std::uint8_t>(1u << static_cast<unsigned>(d));
}
constexpr std::uint8_t kAllDirections =
    bit(abi::Direction::kHostToDevice) | bit(abi::Direction::kDeviceToHost) |
    bit(abi::Direction::kWithinDevice) | bit(abi::Direction::kBetweenDevices) |
    bit(abi::Direction::kHostToHost);

std::uint8_t needed(const abi::AuditEntry& entry) noexcept {
  if (abi::kind_of(entry) == abi::EntryKind::kMap) return 1;  // bit 0
  const abi::Direction d = abi::direction_of(entry);
  return d == abi::Direction::kUnknown ? kAllDirections : bit(d);
}

// Looked up once a session: entries come in runs of one.
void make_mask(KnownGrant& g, const SessionRecord& session) noexcept {
  g.devices_of = session.serial;
  g.device_mask = 0;
  for (std::size_t i = 0; i < session.devices.size() && i < 32; ++i) {
    const auto& all = g.record.devices;
    if (all.empty() || std::find(all.begin(), all.end(), session.devices[i]) != all.end())
      g.device_mask |= 1u << i;
  }
}

bool device_allowed(const KnownGrant& g, std::uint8_t device) noexcept {
  if (device == abi::kHostDevice || device == abi::kRemoteDevice) return true;
  return device < 32 && (g.device_mask >> device & 1) != 0;
}

std::uint64_t ns(std::int64_t s) noexcept {
  return s <= 0
             ? 0
             : static_cast<std::uint64_t>(std::min<std::int64_t>(s, 9'000'000'000)) * 1'000'000'000;
}

}  // namespace

const char* check_entry_against_grant(const abi::AuditEntry& entry, const SessionRecord& session,
                                      KnownGrant* grant) noexcept {
  if (entry.grant == 0) return "names no grant";
  if (grant == nullptr) return "names a grant that has no record before it";
  const GrantRecord& r = grant->record;
  if (r.tenant != session.tenant) return "names a grant of another tenant";
  if (entry.utc_ns + kGrantSkewNs < ns(r.not_before_s)) return "is earlier than its grant";
  if (entry.utc_ns > ns(r.expires_s) + kGrantSkewNs) return "is later than its grant's end";
  if (grant->revoked_ns != 0 && entry.utc_ns > grant->revoked_ns + kGrantSkewNs)
    return "names a grant that was revoked";
  const std::uint8_t need = needed(entry);
  if ((r.directions & need) != need) return "has a direction its grant does not allow";
  if (grant->devices_of != session.serial) make_mask(*grant, session);
  if (!device_allowed(*grant, entry.source_device) ||
      !device_allowed(*grant, entry.destination_device))
    return "touches a device its grant does not name";
  if (abi::kind_of(entry) == abi::EntryKind::kTransfer) grant->bytes_used += abi::bytes_of(entry);
  if (r.bytes != 0 && grant->bytes_used > r.bytes) return "moves more bytes than its grant allows";
  return nullptr;
}

}  // namespace bulkhead::audit
