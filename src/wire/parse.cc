#include "wire/parse.h"

#include <cstring>

namespace bulkhead::wire {
namespace {

constexpr Status bad(const char* what) { return Status{Errc::kInvalid, 0, what}; }

template <class T>
const T& as(const void* message) noexcept {
  return *static_cast<const T*>(message);
}

bool all_zero(const void* at, std::size_t bytes) noexcept {
  const auto* p = static_cast<const unsigned char*>(at);
  unsigned any = 0;
  for (std::size_t i = 0; i < bytes; ++i) any |= p[i];
  return any == 0;
}

bool name_character(char c, bool first) noexcept {
  if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) return true;
  return !first && (c == '.' || c == '_' || c == '-');
}
bool name_or_empty(const char (&name)[kNameBytes]) noexcept {
  return all_zero(name, sizeof name) || valid_name(name);
}
// A class or group is a short name.
template <std::size_t N>
bool word_or_empty(const char (&word)[N]) noexcept {
  if (!valid_text(word, N)) return false;
  for (std::size_t i = 0; word[i] != '\0'; ++i) {
    if (!name_character(word[i], i == 0)) return false;
  }
  return true;
}

// An absolute path without a "." or ".." part, or empty.
bool cgroup_or_empty(const char (&path)[256]) noexcept {
  if (!valid_text(path, sizeof path)) return false;
  if (path[0] == '\0') return true;
  if (path[0] != '/') return false;
  for (const char* part = path; *part != '\0';) {
    const char* end = part + 1;
    while (*end != '\0' && *end != '/') ++end;
    const std::size_t length = static_cast<std::size_t>(end - part) - 1;
    if (length <= 2 && length > 0 && std::strncmp(part + 1, "..", length) == 0) return false;
    part = end;
  }
  return true;
}

Status check_devices(const TenantRecord& r) noexcept {
  for (unsigned i = 0; i < kMaxDevices; ++i) {
    const DeviceGrant& d = r.devices[i];
    if (i >= r.device_count) {
      if (!all_zero(&d, sizeof d)) return bad("devices beyond their count");
      continue;
    }
    if (all_zero(d.uuid, sizeof d.uuid)) return bad("device without a UUID");
    if (d.memory_bytes > kMaxMemoryBytes) return bad("memory beyond any device");
    if (d.compute_x100 > 10000 || d.ceiling_x100 > 10000) return bad("compute over 100%");
    if (d.ceiling_x100 != 0 && d.ceiling_x100 < d.compute_x100) return bad("ceiling below compute");
    for (unsigned j = 0; j < i; ++j) {
      if (std::memcmp(d.uuid, r.devices[j].uuid, kUuidBytes) == 0) return bad("device named twice");
    }
  }
  return {};
}

Status check_shares(const TenantRecord& r) noexcept {
  bool ended = false;
  for (const auto& name : r.share_with) {
    if (!name_or_empty(name) || (ended && name[0] != '\0')) return bad("share_with");
    ended = name[0] == '\0';
  }
  return {};
}

Status check_header(const void* message, std::size_t bytes) noexcept {
  if (bytes < sizeof(Header) || bytes > kMaxMessage) return bad("length");
  const auto& h = as<Header>(message);
  if (h.magic != kMagic) return bad("magic");
  if (h.bytes != bytes) return bad("length in the header");
  if (h.protocol != kProtocol) return Status{Errc::kBadVersion, 0, "another protocol"};
  return {};
}

Status check_join(const JoinRequest& r) noexcept {
  if (!valid_name(r.name) || r.reserved != 0 || r.pid == 0) return bad("join");
  return {};
}
Status check_lane(const LaneRequest& r) noexcept {
  if (!valid_name(r.name) || (r.flags & ~(kLaneFirst | kLaneProbe | kLaneEnforce)) != 0)
    return bad("lane");
  if (r.device_count > kMaxDevices) return bad("devices");
  return {};
}
Status check_grant(const GrantRequest& r) noexcept {
  if (!valid_name(r.name) || r.reserved != 0) return bad("grant");
  if (r.token_bytes == 0 || r.token_bytes > kMostTokenBytes) return bad("token");
  return all_zero(r.token + r.token_bytes, kMostTokenBytes - r.token_bytes) ? Status{}
                                                                            : bad("token");
}
Status check_revoke(const RevokeRequest& r) noexcept {
  if (static_cast<std::uint32_t>(r.what) > 2 || r.reserved != 0) return bad("revoke");
  return r.which[0] != '\0' && valid_text(r.which, sizeof r.which) ? Status{} : bad("which");
}
Status check_rollout(const RolloutRequest& r) noexcept {
  const auto target = static_cast<std::uint32_t>(r.target);
  if (!valid_name(r.name) || static_cast<std::uint32_t>(r.action) > 1) return bad("rollout");
  if ((r.flags & ~kAbortOnGap) != 0 || r.reserved != 0) return bad("flags");
  if (!valid_text(r.service_file, sizeof r.service_file)) return bad("service file");
  if (r.action == RolloutDo::kStop) return {};
  constexpr std::uint64_t kDay_ms = 86'400'000;
  if (target == 0 || target > 2 || r.watch_ms == 0 || r.watch_ms > 30 * kDay_ms)
    return bad("rollout");
  return (r.service_p99_ns != 0) == (r.service_file[0] == '/') ? Status{} : bad("service file");
}
Status check_register(const RegisterRequest& r) noexcept {
  if ((r.flags & ~(kJoinExisting | kSameOrRefuse)) != 0 || r.reserved != 0) return bad("flags");
  return check_record(r.record, RecordUse::kRegister);
}
Status check_update(const UpdateRequest& r) noexcept {
  constexpr std::uint32_t kAll = kSetMemory | kSetCompute | kSetPriority | kSetMode | kSetAudit |
                                 kSetShareWith | kSetOnFault | kSetPace;
  if (r.mask == 0 || (r.mask & ~kAll) != 0 || r.reserved != 0) return bad("mask");
  if ((r.mask & (kSetMemory | kSetCompute)) != 0 && r.record.device_count == 0)
    return bad("devices");
  return check_record(r.record, RecordUse::kUpdate);
}

// 0: no such request.
std::size_t request_bytes(Kind kind) noexcept {
  switch (kind) {
    case Kind::kHello:
    case Kind::kWhoAmI:
    case Kind::kReload:
    case Kind::kCondition:
    case Kind::kAuditState:
      return sizeof(Empty);
    case Kind::kRegister:
      return sizeof(RegisterRequest);
    case Kind::kUnregister:
    case Kind::kList:
    case Kind::kBeacons:
      return sizeof(NameRequest);
    case Kind::kUpdate:
      return sizeof(UpdateRequest);
    case Kind::kJoin:
      return sizeof(JoinRequest);
    case Kind::kEvents:
      return sizeof(EventsRequest);
    case Kind::kUsage:
      return sizeof(UsageRequest);
    case Kind::kLane:
      return sizeof(LaneRequest);
    case Kind::kGrant:
      return sizeof(GrantRequest);
    case Kind::kRevoke:
      return sizeof(RevokeRequest);
    case Kind::kGrantTable:
    case Kind::kRolloutShow:
      return sizeof(NameRequest);
    case Kind::kRollout:
      return sizeof(RolloutRequest);
  }
  return 0;
}

// Replies: a field of text that has no end within it would be read past it.
template <std::size_t N>
bool ends(const char (&text)[N]) noexcept {
  return std::memchr(text, 0, N) != nullptr;
}

Status check_list(const void* message, std::size_t bytes) noexcept {
  if (bytes < sizeof(ListReply)) return bad("length");
  const auto& r = as<ListReply>(message);
  const std::uint64_t need = sizeof r + std::uint64_t{r.devices} * sizeof(NodeDevice) +
                             std::uint64_t{r.strays} * sizeof(StrayView) +
                             std::uint64_t{r.tenants} * sizeof(TenantView);
  if (need != bytes) return bad("counts");
  const auto* device = reinterpret_cast<const NodeDevice*>(&r + 1);
  for (unsigned i = 0; i < r.devices; ++i) {
    if (!ends(device[i].name)) return bad("text without an end");
  }
  const auto* stray = reinterpret_cast<const StrayView*>(device + r.devices);
  for (unsigned i = 0; i < r.strays; ++i) {
    if (!ends(stray[i].command) || !ends(stray[i].tenant)) return bad("text without an end");
  }
  const auto* tenant = reinterpret_cast<const TenantView*>(stray + r.strays);
  for (unsigned i = 0; i < r.tenants; ++i) {
    if (!valid_name(tenant[i].name) || tenant[i].device_count > kMaxDevices) return bad("tenant");
  }
  return {};
}

Status check_events(const void* message, std::size_t bytes) noexcept {
  if (bytes < sizeof(EventsReply)) return bad("length");
  const auto& r = as<EventsReply>(message);
  if (sizeof r + std::uint64_t{r.events} * sizeof(EventView) != bytes) return bad("counts");
  const auto* event = reinterpret_cast<const EventView*>(&r + 1);
  for (unsigned i = 0; i < r.events; ++i) {
    if (!ends(event[i].tenant) || !ends(event[i].text)) return bad("text without an end");
  }
  return {};
}

Status check_usage(const void* message, std::size_t bytes) noexcept {
  if (bytes < sizeof(UsageReply)) return bad("length");
  const auto& r = as<UsageReply>(message);
  if (sizeof r + std::uint64_t{r.rows} * sizeof(UsageRow) != bytes) return bad("counts");
  const auto* row = reinterpret_cast<const UsageRow*>(&r + 1);
  for (unsigned i = 0; i < r.rows; ++i) {
    if (!ends(row[i].tenant)) return bad("text without an end");
  }
  return {};
}

Status check_beacons(const void* message, std::size_t bytes) noexcept {
  if (bytes != sizeof(BeaconsReply)) return bad("length of its kind");
  const auto& r = as<BeaconsReply>(message);
  if (r.count > kMaxBeacons || r.reserved != 0) return bad("counts");
  for (unsigned i = 0; i < r.count; ++i) {
    const BeaconEntry& e = r.beacons[i];
    if (!valid_name(e.name) || e.device_count > kMaxDevices || (e.flags & ~kOwnBeacon) != 0)
      return bad("beacon");
  }
  return {};
}

}  // namespace

bool valid_name(const char (&name)[kNameBytes]) noexcept {
  if (!name_character(name[0], true)) return false;
  std::size_t n = 1;
  while (n < kNameBytes && name_character(name[n], false)) ++n;
  return n < kNameBytes && all_zero(name + n, kNameBytes - n);
}

bool valid_text(const char* text, std::size_t bytes) noexcept {
  std::size_t n = 0;
  for (; n < bytes && text[n] != '\0'; ++n) {
    const auto c = static_cast<unsigned char>(text[n]);
    if (c < 0x20 || c == 0x7f) return false;
  }
  return n < bytes && all_zero(text + n, bytes - n);
}

Status check_record(const TenantRecord& r, RecordUse use) noexcept {
  const bool update = use == RecordUse::kUpdate;
  if (update ? !valid_name(r.name) : !name_or_empty(r.name)) return bad("name");
  if ((r.flags & ~(kRecordEphemeral | kRecordOvercommit | kRecordBorrow)) != 0) return bad("flags");
  if (r.device_count > kMaxDevices || (!update && r.device_count == 0)) return bad("device count");
  if (static_cast<std::uint32_t>(r.on_fault) > 1) return bad("on_fault");
  if (static_cast<std::uint32_t>(r.priority) > 1) return bad("priority");
  if (static_cast<std::uint32_t>(r.compute_mode) > 4) return bad("compute mode");
  if (r.burst_us > kMostPace_us || r.window_us > kMostPace_us || r.dampening_x1000 > 1000)
    return bad("pace");
  if (static_cast<std::uint32_t>(r.audit_mode) > 2) return bad("audit mode");
  if (r.reserved0 != 0 || !all_zero(r.reserved1, sizeof r.reserved1)) return bad("reserved");
  if (const Status s = check_devices(r); !s.ok()) return s;
  if (!word_or_empty(r.reserve_class)) return bad("reserve class");
  if (!word_or_empty(r.mps_group)) return bad("mps_group");
  if (!valid_text(r.grant_subject, sizeof r.grant_subject)) return bad("grant subject");
  if (!cgroup_or_empty(r.match_cgroup)) return bad("match cgroup");
  return check_shares(r);
}

Status check_request(const void* message, std::size_t bytes) noexcept {
  if (const Status s = check_header(message, bytes); !s.ok()) return s;
  const auto& h = as<Header>(message);
  if (h.result != 0 || h.flags != 0 || h.reserved != 0) return bad("fields of a reply");
  const auto kind = static_cast<Kind>(h.kind);
  const std::size_t need = request_bytes(kind);
  if (need == 0) return bad("kind");
  if (need != bytes) return bad("length of its kind");
  switch (kind) {
    case Kind::kRegister:
      return check_register(as<RegisterRequest>(message));
    case Kind::kUpdate:
      return check_update(as<UpdateRequest>(message));
    case Kind::kJoin:
      return check_join(as<JoinRequest>(message));
    case Kind::kLane:
      return check_lane(as<LaneRequest>(message));
    case Kind::kGrant:
      return check_grant(as<GrantRequest>(message));
    case Kind::kRevoke:
      return check_revoke(as<RevokeRequest>(message));
    case Kind::kRollout:
      return check_rollout(as<RolloutRequest>(message));
    case Kind::kRolloutShow:
    case Kind::kGrantTable: {
      const auto& r = as<NameRequest>(message);
      return valid_name(r.name) && r.flags == 0 && r.reserved == 0 ? Status{} : bad("name");
    }
    case Kind::kUnregister: {
      const auto& r = as<NameRequest>(message);
      return valid_name(r.name) && (r.flags & ~kForce) == 0 && r.reserved == 0 ? Status{}
                                                                               : bad("name");
    }
    case Kind::kBeacons: {
      const auto& r = as<NameRequest>(message);
      return valid_name(r.name) && r.flags == 0 && r.reserved == 0 ? Status{} : bad("name");
    }
    case Kind::kList: {
      const auto& r = as<NameRequest>(message);
      return name_or_empty(r.name) && r.flags == 0 && r.reserved == 0 ? Status{} : bad("name");
    }
    case Kind::kEvents: {
      const auto& r = as<EventsRequest>(message);
      return r.follow <= 1 && r.reserved == 0 ? Status{} : bad("follow");
    }
    case Kind::kUsage:
      return name_or_empty(as<UsageRequest>(message).after) ? Status{} : bad("name");
    default:
      return {};
  }
}

static Status check_audit(const void* message, std::size_t bytes) noexcept {
  if (bytes != sizeof(AuditReply)) return bad("length of its kind");
  for (const RefusalCount& r : as<AuditReply>(message).view.refused) {
    if (!ends(r.name)) return bad("reason");
  }
  return {};
}

Status check_reply(const void* message, std::size_t bytes, Kind kind,
                   std::uint32_t sequence) noexcept {
  if (const Status s = check_header(message, bytes); !s.ok()) return s;
  const auto& h = as<Header>(message);
  if (h.kind != (static_cast<std::uint16_t>(kind) | kReplyBit)) return bad("kind");
  if (h.sequence != sequence) return bad("sequence");
  // A request that is refused as such (rate, version) may be answered by the header alone.
  if (bytes == sizeof(Header)) return h.result != 0 ? Status{} : bad("length");
  switch (kind) {
    case Kind::kHello:
      return bytes == sizeof(HelloReply) && ends(as<HelloReply>(message).version) ? Status{}
                                                                                  : bad("hello");
    case Kind::kList:
      return check_list(message, bytes);
    case Kind::kEvents:
      return check_events(message, bytes);
    case Kind::kUsage:
      return check_usage(message, bytes);
    case Kind::kLane:
      return bytes == sizeof(LaneReply) && ends(as<LaneReply>(message).text) ? Status{}
                                                                             : bad("lane");
    case Kind::kBeacons:
      return check_beacons(message, bytes);
    case Kind::kRolloutShow:
      return bytes == sizeof(RolloutReply) && ends(as<RolloutReply>(message).name) &&
                     ends(as<RolloutReply>(message).why)
                 ? Status{}
                 : bad("rollout");
    case Kind::kAuditState:
      return check_audit(message, bytes);
    default: {
      if (bytes != sizeof(Verdict)) return bad("length of its kind");
      const auto& v = as<Verdict>(message);
      return name_or_empty(v.name) && ends(v.text) ? Status{} : bad("verdict");
    }
  }
}

}  // namespace bulkhead::wire
