// The node page, format 1.0 (docs/formats/node.md): what the operator's daemon tells every tenant.
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
inline constexpr std::uint16_t kNodeMinor = 0;
inline constexpr unsigned kMaxTenants = 1024;
inline constexpr unsigned kMaxPartners = 8;

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
  AtomicU32 flags;
  std::atomic<std::uint16_t> share_with[kMaxPartners];  // index + 1 of entries; 0 = none
  std::uint8_t reserved[32];
  char name[kNameBytes];  // empty = the entry is unused
  NodeLimit limits[kMaxDevices];
};
struct NodePage {
  AtomicU64 magic;  // stored last
  std::uint16_t major;
  std::uint16_t minor;
  std::uint32_t header_bytes;
  std::uint64_t page_bytes;
  AtomicU32 flags;
  AtomicU32 tenant_count;  // entries in use are below it
  std::uint8_t reserved[4064];
  std::uint8_t verdicts[4096];  // self-test verdicts, zero = unknown; a later minor fills them
  NodeTenant tenants[kMaxTenants];
};
static_assert(std::is_standard_layout_v<NodePage> && std::is_trivially_destructible_v<NodePage>);
static_assert(sizeof(NodeLimit) == 40 && sizeof(NodeTenant) == 768);
static_assert(offsetof(NodeTenant, share_with) == 16 && sizeof(std::atomic<std::uint16_t>) == 2);
static_assert(offsetof(NodeTenant, name) == 64 && offsetof(NodeTenant, limits) == 128);
static_assert(offsetof(NodePage, page_bytes) == 16 && offsetof(NodePage, flags) == 24);
static_assert(offsetof(NodePage, verdicts) == 4096 && offsetof(NodePage, tenants) == 8192);
static_assert(sizeof(NodePage) == 794'624);

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
// After another writer may have died over the page: entries it left half-made are taken out, half-set ones are
// completed (a limit is one word). What is no name or has too many devices is taken out, too.
void repair_node(NodePage& page) noexcept;
// Replaces what a tenant names in share_with. kNotFound: the page does not name the tenant.
[[nodiscard]] Status set_node_partners(NodePage& page, const char* name,
                                       const std::uint16_t (&named)[kMaxPartners]) noexcept;

}  // namespace bulkhead::shm
