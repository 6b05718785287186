// What the daemon shows of devices, tenants, strays and events: the same fixed layout over the socket and in the
// picture (picture.h). Little endian, no pointers; text is zero padded and may hold any bytes a tenant chose: whoever
// prints it escapes it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "wire/record.h"

namespace bulkhead::wire {

inline constexpr std::uint32_t kUnknownShare = 0xffff'ffff;

enum TenantViewFlag : std::uint32_t {
  kViewEphemeral = 1,
  kViewOvercommitted = 2,
  kViewConfigured = 4,  // declared in the configuration file
  kViewAdopted = 8,     // made without the daemon, then taken over
  kViewFaulty = 16,     // its region cannot be read any more
  kViewOverLimit = 32,  // holds more than its limit: growth has stopped
  kViewOpenOnFault = 64,
};

struct DeviceView {  // one tenant on one device
  std::uint8_t uuid[kUuidBytes];
  std::uint64_t total_bytes;
  std::uint64_t limit_bytes;
  std::uint64_t used_bytes;    // by living processes, `other` included
  std::uint64_t other_bytes;   // the part that is contexts, modules, heaps
  std::uint64_t dead_bytes;    // held by processes that have died and are being reaped
  std::uint64_t byte_seconds;  // integral of used_bytes since the tenant was first seen
  std::uint64_t held_ms;       // time with at least one living process that holds memory
  std::uint64_t gpu_ms;        // GPU time used: the library's count while the tenant's time is
                               // limited, else NVML's per-process samples; ~0 = not measured
  std::uint64_t counted_ms;    // the part of it that the library counted
  std::uint32_t share_x100;    // of the device's time in the last second, by NVML; kUnknownShare
  std::uint32_t processes;     // living ones that hold memory here
  // The tenant's share of the device's time, and the library's sums of it (docs/compute.md): GPU time but for held_ns.
  std::uint32_t compute_x100;    // the floor that was asked, 0 = no limit
  std::uint32_t ceiling_x100;    // == floor: a hard cap
  std::uint32_t delivered_x100;  // of the last second, by the library's count; kUnknownShare
  std::uint32_t rate_x100;       // in force; 0 = unknown
  std::uint64_t used_ns, borrowed_ns, forgiven_ns;
  std::uint64_t held_ns;  // of all threads together
  std::uint64_t launches;
  std::uint64_t moved_bytes[5];  // to the device, to the host, within it, peer, set: of all tenants
  std::uint64_t gated_ns;        // held for latency tenants, wall time of all threads together
  std::uint64_t gates;           // how often
  std::uint64_t longest_op_ns;   // of those that were measured
};

struct TenantView {
  char name[kNameBytes];
  std::uint32_t owner_uid;
  std::uint32_t flags;
  std::uint32_t device_count;
  std::uint32_t processes;  // living
  std::uint64_t allocs, frees, refused, faults, uncovered;
  std::uint64_t reaped_processes;  // ended without leaving, taken back by the daemon
  std::uint64_t reaped_bytes;
  std::int64_t since_unix_s;  // when the daemon first saw it
  std::uint32_t priority;
  std::uint32_t compute_mode;  // asked
  std::uint32_t enforcer;      // in force: 0 temporal, 1 spatial, 2 slice, 3 partition
  // Of its group: 0 none, 1 serving, 2 not there (yet), 3 silent; of a partition tenant 2 also while it has none yet, and
  // 4: MPS gave it none.
  std::uint32_t mps_state;
  char mps_group[32];
  DeviceView devices[kMaxDevices];
};

struct NodeDevice {
  std::uint8_t uuid[kUuidBytes];
  char name[64];
  std::uint32_t index;             // NVML's
  std::uint32_t flags;             // 1 = MIG enabled; from bit 8 what self-tests saw, see seen_of()
  std::uint64_t total_bytes;       // NVML's, the hardware's
  std::uint64_t usable_bytes;      // cuDeviceTotalMem; 0 = not known yet
  std::uint64_t used_bytes;        // NVML, device-wide
  std::uint64_t promised_bytes;    // sum of the tenants' limits
  std::uint64_t reserve_bytes;     // kept for the reserve class
  std::uint32_t utilisation_x100;  // NVML; kUnknownShare
  std::uint32_t
      gate_bound_us;  // docs/compute.md, 'Gate'; 0 = no latency tenant, or nothing measured
};

// What a self-test saw (docs/spatial.md), two bits each in NodeDevice::flags: 0 unknown, 1 works, 2 no.
inline constexpr unsigned kSelfTests = 4;
inline constexpr unsigned kSeenShift = 8;
[[nodiscard]] const char* self_test_name(unsigned test) noexcept;  // "spatial"; test < kSelfTests
[[nodiscard]] constexpr std::uint32_t seen_of(const NodeDevice& device, unsigned test) noexcept {
  return device.flags >> (kSeenShift + 2 * test) & 3u;
}
[[nodiscard]] const char* seen_name(std::uint32_t seen) noexcept;   // "works"
[[nodiscard]] const char* mode_name(std::uint32_t asked) noexcept;  // TenantView::compute_mode
[[nodiscard]] const char* enforcer_name(std::uint32_t enforcer) noexcept;  // TenantView::enforcer
[[nodiscard]] const char* mps_state_name(
    std::uint32_t mps_state) noexcept;  // TenantView::mps_state

// A process on a device that no tenant's books explain.
enum class StrayKind : std::uint32_t { kUnregistered = 1, kDrift = 2, kHoldsNode = 3 };
struct StrayView {
  std::uint32_t pid;
  std::uint32_t uid;
  std::uint64_t start_ticks;
  std::uint8_t uuid[kUuidBytes];
  std::uint64_t bytes;  // NVML's; for a drift what the books lack
  StrayKind kind;
  std::uint32_t sightings;  // consecutive
  char command[32];         // /proc/PID/comm
  char tenant[kNameBytes];  // of a drift; else the tenant its cgroup or uid belongs to, or ""
};

enum class EventKind : std::uint32_t {
  kDaemonStarted = 1,
  kDaemonStopping,
  kTenantRegistered,
  kTenantUpdated,
  kTenantRemoved,
  kTenantAdopted,
  kTenantFaulty,
  kProcessJoined,
  kProcessEnded,
  kProcessReaped,
  kLimitBelowUse,
  kAdmissionRefused,
  kWaiting,
  kBypassFound,
  kBypassGone,
  kBypassKilled,
  kDrift,
  kLimitTampered,
  kStoreFailed,
  kStoreRecovered,
  kClockJumped,
  kConfigLoaded,
  kConfigRefused,
  kPeerRefused,
  kMpsStarted,
  kMpsAdopted,
  kMpsStopped,
  kMpsFailed,
  kMpsHit,
  kMpsTerminated,
  kSelfTested,
  // the SIEM exporter (docs/compliance/siem.md)
  kSiemAway = 50,
  kSiemBack,
  kSiemFailed,
  kSiemMissed,
  kTimeUnderstated = 54,  // docs/compute.md
  kMpsPartition = 55,     // docs/spatial.md
  // grants (docs/formats/grant.md); numbers of their own, for other parts add above
  kGrantAccepted = 60,
  kGrantRefused,
  kGrantRevoked,
  kGrantExpired,
  kGrantExpiring,
  kTrustLoaded,
  kTrustRefused,
  kShimRefused,
  // rollout of audit modes (docs/rollout.md); numbers of their own
  kAuditMode = 75,
  kAuditGap,
  kRolloutBegan,
  kRolloutMoved,
  kRolloutFellBack,
  kRolloutDone,
  kRolloutStopped,
};
enum class Severity : std::uint32_t { kInfo = 0, kNotice = 1, kWarning = 2, kAlarm = 3 };
struct EventView {
  std::uint64_t id;  // rises by one; goes on over restarts
  std::int64_t unix_ns;
  EventKind kind;
  Severity severity;
  std::uint32_t pid;
  std::uint32_t uid;
  std::uint64_t bytes;
  std::uint8_t uuid[kUuidBytes];
  char tenant[kNameBytes];
  char text[160];  // one line for a person
};
[[nodiscard]] const char* event_name(EventKind kind) noexcept;  // "process-reaped"; "unknown"
[[nodiscard]] const char* severity_name(Severity severity) noexcept;

static_assert(sizeof(DeviceView) == 216 && sizeof(TenantView) == 3648);
static_assert(sizeof(NodeDevice) == 136 && sizeof(StrayView) == 144 && sizeof(EventView) == 280);
static_assert(std::is_trivially_copyable_v<TenantView> && std::is_trivially_copyable_v<EventView>);

}  // namespace bulkhead::wire
