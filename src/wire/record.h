// The allocation record: everything that is promised to one tenant. The one shape in which front ends (the
// configuration file, `run`, later Slurm and Kubernetes) tell the daemon what they want, and in which the daemon
// keeps it. Fixed layout, little endian, no pointers (docs/formats/wire.md).
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace bulkhead::wire {

inline constexpr std::size_t kNameBytes =
    64;  // with its end; names match [a-z0-9][a-z0-9._-]{0,62}
inline constexpr std::size_t kUuidBytes = 16;
inline constexpr unsigned kMaxDevices = 16;
inline constexpr unsigned kMaxShares = 8;
inline constexpr std::uint32_t kMostPace_us = 1'000'000;
inline constexpr std::uint32_t kNoId = 0xffff'ffff;  // no uid, no gid

enum RecordFlag : std::uint32_t {
  kRecordEphemeral = 1,   // vanishes with its last process
  kRecordOvercommit = 2,  // the sum of capacities may pass the device
  kRecordBorrow = 4,      // compute is a floor, idle time may be used beyond it ("25%+")
};
enum class Priority : std::uint32_t { kBatch = 0, kLatency = 1 };
enum class ComputeMode : std::uint32_t {
  kAuto = 0,
  kSpatial = 1,
  kSlice = 2,
  kTemporal = 3,
  kPartition = 4,
};
enum class AuditMode : std::uint32_t { kOff = 0, kObserve = 1, kEnforce = 2 };
enum class OnFault : std::uint32_t { kDeny = 0, kOpen = 1 };

struct DeviceGrant {
  std::uint8_t uuid[kUuidBytes];
  std::uint64_t memory_bytes;
  std::uint32_t
      compute_x100;  // hundredths of a percent of the device's time, 1..10000; 0 = no limit
  std::uint32_t ceiling_x100;  // most that may be borrowed; 0 = the whole device
};

struct TenantRecord {
  char name
      [kNameBytes];  // zero padded; empty: the daemon names it run-<pid>-<start time> of the peer
  std::uint32_t owner_uid;
  std::uint32_t flags;
  std::uint32_t device_count;  // 1..16
  OnFault on_fault;
  Priority priority;
  ComputeMode compute_mode;
  AuditMode audit_mode;
  std::uint32_t reserved0;
  DeviceGrant devices[kMaxDevices];
  char reserve_class[32];
  char mps_group[32];
  char grant_subject[128];
  char share_with[kMaxShares][kNameBytes];
  char match_cgroup[256];   // a path prefix below the cgroup root; "" = none
  std::uint32_t match_uid;  // kNoId = none
  std::uint32_t match_gid;
  // Of every device on which its time is limited; 0 = the usual (docs/compute.md).
  std::uint32_t burst_us;         // GPU time, 1..kMostPace_us
  std::uint32_t window_us;        // the same
  std::uint32_t dampening_x1000;  // 1..1000
  std::uint32_t copy_rate_mb_s;   // of copies on each device, 10^6 bytes a second; 0 = no limit
  std::uint8_t reserved1[40];
};
static_assert(std::is_trivially_copyable_v<TenantRecord> &&
              std::is_standard_layout_v<TenantRecord>);
static_assert(sizeof(DeviceGrant) == 32 && sizeof(TenantRecord) == 1632);
static_assert(offsetof(TenantRecord, devices) == 96 && offsetof(TenantRecord, share_with) == 800);
static_assert(offsetof(TenantRecord, match_cgroup) == 1312 &&
              offsetof(TenantRecord, burst_us) == 1576);

}  // namespace bulkhead::wire
