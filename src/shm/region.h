// The tenant region, format 1.0: layout only. docs/formats/region.md says who writes each word and
// numbers the invariants; src/shm/quota.h and src/shm/slots.h are the protocols over it.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "shm/audit_count.h"

namespace bulkhead::shm {

inline constexpr std::uint64_t kRegionMagic = 0x0031'4e47'4552'4842;  // "BHREGN1" in memory order
inline constexpr std::uint16_t kRegionMajor = 1;                      // differs: refuse to attach
inline constexpr std::uint16_t kRegionMinor = 1;
inline constexpr unsigned kMaxDevices = 16;
inline constexpr unsigned kMaxSlots = 1024;
inline constexpr unsigned kMaxShares = 2048;
inline constexpr std::size_t kNameBytes = 64;  // names have at most 63 characters
inline constexpr std::size_t kUuidBytes = 16;

enum RegionFlag : std::uint32_t { kEphemeral = 1, kOvercommitted = 2 };
enum OnFault : std::uint32_t { kOnFaultDeny = 0, kOnFaultOpen = 1 };

using AtomicU64 = std::atomic<std::uint64_t>;
using AtomicU32 = std::atomic<std::uint32_t>;

// A communicator of collectives (docs/compute.md): which, and what its ranks agreed on (policy/compute/collective.h).
inline constexpr unsigned kMaxComms = 64;
struct CommEntry {
  AtomicU64 id;  // 0: free; any process, by CAS
  AtomicU64 word;
};

struct alignas(64) RegionHeader {
  AtomicU64 magic;  // stored last by format_region(): who sees it sees the constant fields
  std::uint16_t major;
  std::uint16_t minor;
  std::uint32_t header_bytes;
  std::uint64_t region_bytes;
  std::uint32_t device_count;
  std::uint32_t slot_count;
  std::uint32_t owner_uid;
  std::uint32_t flags;
  std::uint32_t creator_pid;
  std::uint32_t reserved0;
  std::uint64_t creator_start_ticks;
  std::uint64_t creator_pid_namespace;
  char name[kNameBytes];
  AtomicU32 on_fault;  // creator, later the daemon
  AtomicU32 adopted;   // daemon
  std::uint8_t reserved1[56];
  AtomicU32 slots_high;  // claimers, only upwards
  std::uint8_t reserved2[60];
  AtomicU32 ask;  // futex; a process that wants a fresh figure of what the driver took adds 1
  std::uint8_t reserved3[60];
  AtomicU32 sampled;  // futex; this line: the supervisor (parent of `run`, later the daemon), +1
                      // after a sample
  AtomicU32 reserved4;
  AtomicU64
      sampler_beat_s;  // CLOCK_BOOTTIME second of the supervisor's last round; 0 = there is none
  std::uint8_t reserved5[48];
  AtomicU32
      shares_high;  // this line: exporters and importers. One more than the highest entry ever used
  AtomicU32 reserved6;
  AtomicU64 exports_lost;  // statistics: exports that no entry could name
  AtomicU64 imports_refused;
  AtomicU64 imports_unknown;  // let through because exports were lost
  std::uint8_t reserved7[608];
  AuditCount audit;            // any process of the tenant: counts of audited transfers, since 1.1
  CommEntry comms[kMaxComms];  // communicators of the tenant's ranks; any process
};

struct alignas(64) DeviceEntry {
  std::uint8_t uuid[kUuidBytes];
  std::uint64_t total_bytes;
  std::uint32_t unit_shift;
  std::uint32_t flags;
  std::uint8_t reserved0[32];
  AtomicU64 limit_bytes;  // governor
  AtomicU64 slack_cap;    // {units:20, epoch:44}; any process, by CAS
  std::uint8_t reserved1[48];
  AtomicU64 turn;  // G: any process, by CAS
  std::uint8_t reserved2[56];
  AtomicU64 context_bytes;  // this line: the process that measures; 0 = not measured
  AtomicU64 extra_context_bytes;
  AtomicU64 alloc_granularity;
  AtomicU64 small_slab_bytes;
  AtomicU64 array_granularity;
  AtomicU64 pool_granularity;
  std::uint8_t reserved3[16];
};

inline constexpr unsigned kStreamClasses = 4;   // compute, copy, collective, capturing
inline constexpr unsigned kCopyOps = 1;         // of them
inline constexpr unsigned kCopyDirections = 5;  // to the device, to the host, within, peer, set
inline constexpr unsigned kOwnAudited = 3;      // of host to device, device to host, set

struct alignas(64) ProcSlot {
  AtomicU64 state;  // S: claimer, owner, reaper, by CAS
  AtomicU32 pid;    // the rest of this line: the owner while claiming
  AtomicU32 uid;
  AtomicU64 start_ticks;
  AtomicU64 pid_namespace;
  AtomicU64 image;
  std::uint8_t reserved0[24];
  AtomicU64 heartbeat_s;  // owner; CLOCK_BOOTTIME
  AtomicU32 witness;      // owner's own thread: its tid; the kernel, at its end: bit 30 alone
  AtomicU32
      own_device;  // owner, at its binding: whose the next are, 1 + the device; 0: nobody's yet
  // own.h. Further moved_bytes and copies of that device, of all owners so far; one thread of the owner.
  AtomicU64 own_moved[kCopyDirections];
  AtomicU64 own_copies;
  AtomicU64 allocs;  // this line: owner, statistics
  AtomicU64 frees;
  AtomicU64 refused;
  AtomicU64 faults;
  AtomicU64 uncovered;
  AtomicU64
      first_allocs;       // further allocs and frees: by the one thread that counted first, without
  AtomicU64 first_frees;  // a locked instruction
  std::uint8_t reserved2[8];
  AtomicU32 poke;  // supervisor; futex
  std::uint8_t reserved3[4];
  AtomicU64 own_audited_calls[kOwnAudited];  // further calls and bytes of AuditCount, likewise
  AtomicU64 own_audited_bytes[kOwnAudited];
  std::uint8_t reserved4[8];
};

struct alignas(64) MemCell {
  AtomicU64 w;            // owner; others lower slack, and raise version
  AtomicU64 p;            // owner: idle, wish; anybody: wish -> granted, refused
  AtomicU64 n;            // owner, while P is idle
  AtomicU64 other_bytes;  // owner: the part of used that is contexts, modules, heaps
  AtomicU64
      unseen_bytes;  // owner: the part of used that NVML shows for no process (managed memory)
  // The owner's compute thread; for the governor, docs/compute.md.
  AtomicU64 work;      // {flags:8, CLOCK_MONOTONIC us:56} from the low bits; WorkFlag; stored after
  AtomicU64 empty_ns;  // how long nothing was queued until then; rises
  std::uint8_t reserved[8];
};
enum WorkFlag : std::uint64_t { kHasWork = 1, kHasLongWork = 2 };

// Memory that a process has exported: docs/formats/sharing.md, src/shm/shares.h.
struct alignas(64) ShareEntry {
  AtomicU64
      word;  // {state, kind, device, slot, gen, serial}; exporter, then payer or its reaper, by CAS
  AtomicU64 payer;   // {gen:24, slot + 1:16}; exporter, then takers, by CAS
  AtomicU64 key[2];  // the rest of this line: exporter while filling
  AtomicU64 bytes;
  AtomicU64 block;
  std::uint8_t reserved[16];
  AtomicU64 holders[kMaxSlots / 64];  // bit of a slot: its owner, later its reaper
};

// Shares of a device's time: docs/compute.md.
enum ComputeFlag : std::uint32_t { kComputeBorrow = 1 };

struct alignas(64) ComputeEntry {
  AtomicU64 tat_ns;  // the bucket; CLOCK_MONOTONIC; the tenant's processes, by CAS
  std::uint8_t reserved0[56];
  AtomicU32
      floor_x100;  // this line: governor. Hundredths of a percent of the device's time; 0 = no limit
  AtomicU32 ceiling_x100;     // >= floor_x100
  AtomicU32 burst_us;         // GPU time
  AtomicU32 window_us;        // GPU time
  AtomicU32 dampening_x1000;  // 1..1000
  AtomicU32 flags;
  AtomicU32 rules;  // futex, raised after each change of this line
  std::uint8_t reserved1[32];
  AtomicU32 copy_rate_mb_s;  // 10^6 bytes a second; 0 = no limit
  AtomicU64 used_ns;         // this line: the tenant's processes, sums that only rise; GPU time
  AtomicU64 borrowed_ns;
  AtomicU64 forgiven_ns;
  AtomicU64 held_ns;  // wall time, of all threads together
  AtomicU64 launches;
  AtomicU64 copied_bytes;
  std::uint8_t reserved2[16];
  AtomicU32 rate_x100;  // this line: the tenant's processes. The rate in force, as floor_x100
  AtomicU32 reserved3;
  AtomicU64 wanted_at_ns;   // last launch or hold, CLOCK_MONOTONIC, to about 1 ms
  AtomicU64 longest_op_ns;  // longest operation measured
  std::uint8_t reserved4[40];
  AtomicU64 copy_tat_ns;  // the bucket of copies, bytes at the rules' rate; by CAS
  std::uint8_t reserved5[56];
  AtomicU64
      gated_ns;     // this line: the tenant's processes, sums. Wall time held for latency tenants
  AtomicU64 gates;  // holds of that kind
  AtomicU64 stream_ops[kStreamClasses];  // launches and copies by what their stream was
  AtomicU64 copy_held_ns;                // wall time held for the copy rate
  std::uint8_t reserved6[8];
  AtomicU64 held_until_ns;  // this line: the tenant's processes, for the governor. CLOCK_MONOTONIC
  AtomicU64 raw_ns;         // charged before kappa; a sum that corrections lower, as the next two
  AtomicU64 shared_raw_ns;  // of it, of what ran beside others
  AtomicU64 short_ns;       // of it, of short operations
  std::uint8_t reserved7[32];
  AtomicU64 moved_bytes[kCopyDirections];  // this line: the tenant's processes, sums that only rise
  AtomicU64 streams_placed;  // streams made on multiprocessors of their own, as was asked
  AtomicU64 streams_left;    // those that were made as ever though it was asked
  std::uint8_t reserved8[8];
};

struct Region {
  RegionHeader header;
  DeviceEntry devices[kMaxDevices];
  ProcSlot slots[kMaxSlots];
  MemCell cells[kMaxDevices][kMaxSlots];
  AtomicU64 observed[kMaxDevices][kMaxSlots];  // supervisor
  ShareEntry shares[kMaxShares];
  ComputeEntry compute[kMaxDevices];
};

static_assert(std::is_standard_layout_v<Region> && std::is_trivially_destructible_v<Region>);
static_assert(AtomicU64::is_always_lock_free && sizeof(AtomicU64) == 8);
static_assert(AtomicU32::is_always_lock_free && sizeof(AtomicU32) == 4);
static_assert(sizeof(RegionHeader) == 4096 && sizeof(DeviceEntry) == 256);
static_assert(sizeof(ProcSlot) == 256 && sizeof(MemCell) == 64 && sizeof(ShareEntry) == 192);
static_assert(sizeof(Region) == 1'851'392);

// Every member at its place; the golden file in tests/abi holds the same numbers.
#define BH_AT(type, member, offset) static_assert(offsetof(type, member) == (offset))
BH_AT(RegionHeader, magic, 0);
BH_AT(RegionHeader, major, 8);
BH_AT(RegionHeader, minor, 10);
BH_AT(RegionHeader, header_bytes, 12);
BH_AT(RegionHeader, region_bytes, 16);
BH_AT(RegionHeader, device_count, 24);
BH_AT(RegionHeader, slot_count, 28);
BH_AT(RegionHeader, owner_uid, 32);
BH_AT(RegionHeader, flags, 36);
BH_AT(RegionHeader, creator_pid, 40);
BH_AT(RegionHeader, creator_start_ticks, 48);
BH_AT(RegionHeader, creator_pid_namespace, 56);
BH_AT(RegionHeader, name, 64);
BH_AT(RegionHeader, on_fault, 128);
BH_AT(RegionHeader, adopted, 132);
BH_AT(RegionHeader, slots_high, 192);
BH_AT(RegionHeader, ask, 256);
BH_AT(RegionHeader, sampled, 320);
BH_AT(RegionHeader, sampler_beat_s, 328);
BH_AT(RegionHeader, shares_high, 384);
BH_AT(RegionHeader, exports_lost, 392);
BH_AT(RegionHeader, imports_refused, 400);
BH_AT(RegionHeader, imports_unknown, 408);
BH_AT(RegionHeader, audit, 1024);
BH_AT(RegionHeader, comms, 3072);
BH_AT(DeviceEntry, uuid, 0);
BH_AT(DeviceEntry, total_bytes, 16);
BH_AT(DeviceEntry, unit_shift, 24);
BH_AT(DeviceEntry, flags, 28);
BH_AT(DeviceEntry, limit_bytes, 64);
BH_AT(DeviceEntry, slack_cap, 72);
BH_AT(DeviceEntry, turn, 128);
BH_AT(DeviceEntry, context_bytes, 192);
BH_AT(DeviceEntry, extra_context_bytes, 200);
BH_AT(DeviceEntry, alloc_granularity, 208);
BH_AT(DeviceEntry, small_slab_bytes, 216);
BH_AT(DeviceEntry, array_granularity, 224);
BH_AT(DeviceEntry, pool_granularity, 232);
BH_AT(ProcSlot, state, 0);
BH_AT(ProcSlot, pid, 8);
BH_AT(ProcSlot, uid, 12);
BH_AT(ProcSlot, start_ticks, 16);
BH_AT(ProcSlot, pid_namespace, 24);
BH_AT(ProcSlot, image, 32);
BH_AT(ProcSlot, heartbeat_s, 64);
BH_AT(ProcSlot, witness, 72);
BH_AT(ProcSlot, own_device, 76);
BH_AT(ProcSlot, own_moved, 80);
BH_AT(ProcSlot, own_copies, 120);
BH_AT(ProcSlot, allocs, 128);
BH_AT(ProcSlot, frees, 136);
BH_AT(ProcSlot, refused, 144);
BH_AT(ProcSlot, faults, 152);
BH_AT(ProcSlot, uncovered, 160);
BH_AT(ProcSlot, first_allocs, 168);
BH_AT(ProcSlot, first_frees, 176);
BH_AT(ProcSlot, poke, 192);
BH_AT(ProcSlot, own_audited_calls, 200);
BH_AT(ProcSlot, own_audited_bytes, 224);
BH_AT(MemCell, w, 0);
BH_AT(MemCell, p, 8);
BH_AT(MemCell, n, 16);
BH_AT(MemCell, other_bytes, 24);
BH_AT(MemCell, unseen_bytes, 32);
BH_AT(MemCell, work, 40);
BH_AT(MemCell, empty_ns, 48);
BH_AT(ComputeEntry, tat_ns, 0);
BH_AT(ComputeEntry, floor_x100, 64);
BH_AT(ComputeEntry, used_ns, 128);
BH_AT(ComputeEntry, rate_x100, 192);
BH_AT(ComputeEntry, copy_tat_ns, 256);
BH_AT(ComputeEntry, held_until_ns, 384);
BH_AT(ComputeEntry, raw_ns, 392);
BH_AT(ComputeEntry, shared_raw_ns, 400);
BH_AT(ComputeEntry, short_ns, 408);
BH_AT(ComputeEntry, gated_ns, 320);
BH_AT(ComputeEntry, moved_bytes, 448);
BH_AT(ComputeEntry, streams_placed, 488);
BH_AT(ComputeEntry, streams_left, 496);
BH_AT(Region, header, 0);
BH_AT(Region, devices, 4096);
BH_AT(Region, slots, 8192);
BH_AT(Region, cells, 270'336);
BH_AT(Region, observed, 1'318'912);
BH_AT(Region, shares, 1'449'984);
BH_AT(ShareEntry, word, 0);
BH_AT(ShareEntry, payer, 8);
BH_AT(ShareEntry, key, 16);
BH_AT(ShareEntry, bytes, 32);
BH_AT(ShareEntry, block, 40);
BH_AT(ShareEntry, holders, 64);
#undef BH_AT

// A statistic of one process: nothing is ordered by it.
inline void count(AtomicU64& statistic) noexcept {
  statistic.fetch_add(1, std::memory_order_relaxed);
}
// The same where the caller is the only one who writes it.
inline void add_alone(AtomicU64& statistic, std::uint64_t n) noexcept {
  // relaxed: as above
  statistic.store(statistic.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
}
inline void count_alone(AtomicU64& statistic) noexcept { add_alone(statistic, 1); }

}  // namespace bulkhead::shm
