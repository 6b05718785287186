// The node page, format 1.1 (docs/formats/node.md): what the operator's daemon tells every tenant.
// The daemon is its only writer; tenants map or read it, and it outranks what stands in a region.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "base/mapping.h"
#include "base/status.h"
#include "shm/region.h"

namespace bulkhead::shm {

struct Dir;

inline constexpr std::uint64_t kNodeMagic = 0x0031'4544'4f4e'4842;  // "BHNODE1" in memory order
inline constexpr std::uint16_t kNodeMajor = 1;
inline constexpr std::uint16_t kNodeMinor = 1;
inline constexpr unsigned kMaxTenants = 1024;
inline constexpr unsigned kMaxPartners = 8;

// Beside kAuditMask: priority latency; how its share is enforced.
enum NodeTenantFlag : std::uint32_t {
  kNodeLatency = 4,
  kTenantSpatial = 8,
  kTenantSlice = 16,
  kTenantPartition = 32,
};
inline constexpr std::uint32_t kEnforcerMask = kTenantSpatial | kTenantSlice | kTenantPartition;
enum NodeFlag : std::uint32_t { kPrivateDirs = 1 };  // BULKHEAD_DIR may be honoured all the same

// The low two bits of a tenant's flags: its audit mode, as wire::AuditMode.
inline constexpr std::uint32_t kAuditMask = 3;

struct NodeLimit {
  std::uint8_t uuid[kUuidBytes];
  AtomicU64 limit_bytes;
  AtomicU64
      share;       // {floor_x100:16, ceiling_x100:16, dampening_x1000:16}; 0 = no limit (compute.h)
  AtomicU64 pace;  // {burst_us:32, window_us:32}
};
struct alignas(64) NodeTenant {
  AtomicU64 version;  // odd while the daemon writes the entry
  AtomicU32 device_count;
  AtomicU32 flags;                                      // NodeTenantFlag
  std::atomic<std::uint16_t> share_with[kMaxPartners];  // index + 1 of entries; 0 = none
  char mps_group[32];     // where it is spatial or partition; ends with a zero
  char name[kNameBytes];  // empty = the entry is unused
  NodeLimit limits[kMaxDevices];
};
// What a self-test saw of a GPU with a driver: docs/formats/node.md.
enum class Seen : std::uint32_t { kUnknown = 0, kWorks = 1, kNo = 2 };
struct NodeVerdict {
  std::uint8_t uuid[kUuidBytes];
  char driver[24];
  AtomicU64
      state;  // {spatial:2, partitions:2, green:2, slice:2, at 16 sms:16, at 32 unit:8, least:8,
              // chunk_sms:8, chunks:8}; 0 = unknown
  AtomicU64 tested_unix_s;
  AtomicU64 reserved;
};
inline constexpr unsigned kMaxVerdicts = 64;
using GivenRate =
    std::atomic<std::uint16_t>;  // hundredths of a percent; the daemon alone writes it
// What the governor tells of a device: docs/compute.md. src/shm/governed.h reads and writes it.
struct alignas(64) NodeDevice {
  AtomicU64 version;  // odd while the daemon writes the entry
  std::uint8_t uuid[kUuidBytes];
  AtomicU64 beat_ns;  // CLOCK_MONOTONIC of the last look; the words below are of it
  AtomicU64 state;    // NodeDeviceState
  AtomicU64 at_ns;    // a point of the shared clock, policy/compute/vclock.h
  AtomicU64 v_ns;
  AtomicU64 shared_ns;
  AtomicU64 pace;      // {pace_q20:32, shared:32}
  AtomicU64 kappa;     // 1/65536
  AtomicU64 slice_ns;  // of the device, as configured or measured; 0 = nobody knows
  AtomicU64 loss;      // 1/1000 of the time, while several have work; 0 = nobody knows
  AtomicU64 contexts;  // with work
  std::uint8_t reserved[24];
};
enum NodeDeviceState : std::uint64_t { kGoverned = 1, kResting = 2 };

struct NodePage {
  AtomicU64 magic;  // stored last
  std::uint16_t major;
  std::uint16_t minor;
  std::uint32_t header_bytes;
  std::uint64_t page_bytes;
  AtomicU32 flags;
  AtomicU32 tenant_count;   // entries in use are below it
  AtomicU32 latency_epoch;  // moves when the latency tenants change
  std::uint8_t reserved[2012];
  NodeDevice devices[kMaxDevices];     // of the node, in no order; uuid of zeros = unused
  NodeVerdict verdicts[kMaxVerdicts];  // the first without a uuid ends them
  NodeTenant tenants[kMaxTenants];
  // The governor's rate on a tenant's limits[d]; 0 = it says none.
  GivenRate given_x100[kMaxTenants][kMaxDevices];
};
static_assert(std::is_standard_layout_v<NodePage> && std::is_trivially_destructible_v<NodePage>);
static_assert(sizeof(NodeLimit) == 40 && sizeof(NodeTenant) == 768);
static_assert(offsetof(NodeTenant, share_with) == 16 && sizeof(std::atomic<std::uint16_t>) == 2);
static_assert(offsetof(NodeTenant, name) == 64 && offsetof(NodeTenant, limits) == 128);
static_assert(sizeof(NodeDevice) == 128 && offsetof(NodePage, given_x100) == 794'624);
static_assert(offsetof(NodePage, devices) == 2048);
static_assert(offsetof(NodePage, page_bytes) == 16 && offsetof(NodePage, flags) == 24);
static_assert(offsetof(NodePage, latency_epoch) == 32);
static_assert(offsetof(NodePage, verdicts) == 4096 && offsetof(NodePage, tenants) == 8192);
static_assert(sizeof(NodeVerdict) == 64 && offsetof(NodeVerdict, state) == 40);
static_assert(offsetof(NodeTenant, mps_group) == 32);
static_assert(sizeof(NodePage) == 827'392);

// Maps the page of a directory, read-only; its owner is root or the directory's user. kNotFound: no daemon
// has published one.
[[nodiscard]] Result<Mapping> map_node(const Dir& dir) noexcept;
// The limit of a tenant on a device. kNotFound: the page names no such pair. kNotReady: the daemon
// kept writing the entry while we read (bounded). The page may be mapped or a copy.
[[nodiscard]] Result<std::uint64_t> node_limit(const NodePage& page, const char* name,
                                               const std::uint8_t (&uuid)[kUuidBytes]) noexcept;
// The entry of a tenant; kMaxTenants: the page does not name it.
[[nodiscard]] unsigned node_index(const NodePage& page, const char* name) noexcept;
// What an entry names in share_with. False: there is no such entry, or it is being written (bounded).
[[nodiscard]] bool node_partners(const NodePage& page, unsigned index,
                                 std::uint16_t (&out)[kMaxPartners]) noexcept;
// What the page of `dir` grants a tenant: bit d is set if it may use the region's device d. All bits
// without an authoritative page (dir.h). A limit above the page's is lowered to it, a lower one stands:
// a tenant may ask for less. Any process of the tenant, as often as it likes. A page that cannot be
// read is an error, for it may have granted nothing. In a user's own directory the page lowers the limits of a region
// that a daemon has adopted, and grants everything: there it protects its owner from himself only.
[[nodiscard]] Result<std::uint32_t> apply_node(const Dir& dir, Region& r, unsigned device_count,
                                               const char* name) noexcept;
// The same from a page that is mapped already: lowers, and says what the page names.
[[nodiscard]] std::uint32_t apply_page(const NodePage& page, Region& r, unsigned device_count,
                                       const char* name) noexcept;
// The audit mode of a tenant: 0 off, 1 observe, 2 enforce; 0 if the page does not name it. One word, no version: a name
// that is being replaced has no processes.
[[nodiscard]] std::uint32_t node_audit(const NodePage& page, const char* name) noexcept;
// How a tenant's share is enforced. kNotFound: the page does not name it; kNotReady: being written (bounded).
struct NodeMode {
  std::uint32_t flags = 0;  // NodeTenantFlag
  char mps_group[32] = {};  // always with its end
};
[[nodiscard]] Result<NodeMode> node_mode(const NodePage& page, const char* name) noexcept;
// What is known of a GPU; unknown if nothing is.
struct Verdict {
  Seen spatial = Seen::kUnknown, partitions = Seen::kUnknown, green = Seen::kUnknown,
       slice = Seen::kUnknown;
  std::uint32_t sms = 0,
                sm_unit = 0;   // multiprocessors, and the unit of a percentage; 0 = not counted
  std::uint32_t sm_least = 0;  // what the least percentage gets
  std::uint32_t chunks = 0, chunk_sms = 0;  // of partitions, below 256; 0 = none are known to work
  std::uint64_t tested_unix_s = 0;
  bool operator==(const Verdict&) const = default;
};
[[nodiscard]] Verdict node_verdict(const NodePage& page,
                                   const std::uint8_t (&uuid)[kUuidBytes]) noexcept;

// kOk, kBadMagic, kBadVersion or kBadSize for the constant fields.
[[nodiscard]] Status check_node(const NodePage& page) noexcept;

// The writer's half: the daemon, and tests. One writer at a time.
void format_node(NodePage& page, std::uint32_t flags) noexcept;
// NodeFlag bits, for programs that start from now on.
void set_node_flags(NodePage& page, std::uint32_t flags) noexcept;
// Sets or adds one limit; an entry without a name is used again. kFull: no entry left.
[[nodiscard]] Status set_node_limit(NodePage& page, const char* name,
                                    const std::uint8_t (&uuid)[kUuidBytes],
                                    std::uint64_t limit_bytes) noexcept;
// kNotFound: the page does not name the tenant.
[[nodiscard]] Status set_node_audit(NodePage& page, const char* name, std::uint32_t mode) noexcept;
// Takes a tenant's name and limits out. True if it was there.
bool remove_node_tenant(NodePage& page, const char* name) noexcept;
// Priority latency, or not. True: it was otherwise, and latency_epoch has moved.
bool set_node_latency(NodePage& page, const char* name, bool latency) noexcept;
// Whether the page says that the tenant has priority latency. False also: it names no such tenant, or is being written.
[[nodiscard]] bool node_latency(const NodePage& page, const char* name) noexcept;
// After another writer may have died over the page: entries it left half-made are taken out, half-set ones are
// completed (a limit is one word). What is no name or has too many devices is taken out, too.
void repair_node(NodePage& page) noexcept;
// Replaces what a tenant names in share_with. kNotFound: the page does not name the tenant.
[[nodiscard]] Status set_node_partners(NodePage& page, const char* name,
                                       const std::uint16_t (&named)[kMaxPartners]) noexcept;

// The enforcer of a tenant's share; `group` "" unless spatial or partition. kNotFound: the page does not name the tenant.
[[nodiscard]] Status set_node_mode(NodePage& page, const char* name, std::uint32_t flags,
                                   const char* group) noexcept;
// What is known of a GPU with the driver that runs. kFull.
[[nodiscard]] Status set_node_verdict(NodePage& page, const std::uint8_t (&uuid)[kUuidBytes],
                                      const char* driver, const Verdict& verdict) noexcept;

}  // namespace bulkhead::shm
