// The rules of a tenant's share of a device's time: what a governor writes, what the library obeys, what readers see.
// docs/compute.md is the protocol, docs/formats/region.md and node.md the words. Libc only, no heap; any thread.
#pragma once
#include <cstdint>

#include "base/status.h"
#include "shm/node.h"
#include "shm/region.h"

namespace bulkhead::shm {

inline constexpr std::uint32_t kWholeDevice_x100 = 10'000;
inline constexpr std::uint32_t kBurst_us = 5'000;   // where nobody said another
inline constexpr std::uint32_t kWindow_us = 2'000;  // the same
inline constexpr std::uint32_t kDampening_x1000 = 1'000;
inline constexpr std::uint32_t kMostPace_us = 1'000'000;  // of burst and window, either

struct ComputeRules {
  std::uint32_t floor_x100 = 0;  // hundredths of a percent of the device's time; 0 = no limit
  std::uint32_t ceiling_x100 = kWholeDevice_x100;  // >= floor; == floor: a hard cap
  std::uint32_t burst_us = kBurst_us;              // GPU time
  std::uint32_t window_us = kWindow_us;            // GPU time
  std::uint32_t dampening_x1000 = kDampening_x1000;
  [[nodiscard]] bool limited() const noexcept { return floor_x100 != 0; }
  [[nodiscard]] bool borrows() const noexcept { return ceiling_x100 > floor_x100; }
  bool operator==(const ComputeRules&) const = default;
};

// Each field brought into its range, 0 (but for the floor) to the usual: for what came from memory that somebody else writes. No limit is the same whatever else was
// said.
[[nodiscard]] ComputeRules in_range(const ComputeRules& rules) noexcept;
// The narrower of each field; one without a limit binds nothing. Dampening is a's: neither value is the narrower one.
[[nodiscard]] ComputeRules lower_of(const ComputeRules& a, const ComputeRules& b) noexcept;

// What the region says of its device `dev` (< kMaxDevices), in range. Words that change meanwhile may be mixed: `rules` rises after
// each change, so read it first (acquire) and come back when it moves.
[[nodiscard]] ComputeRules region_compute(const Region& r, unsigned dev) noexcept;
// What the page promises a tenant on a device; no limit if it says nothing of its time. kNotFound, kNotReady: as node_limit().
[[nodiscard]] Result<ComputeRules> node_compute(const NodePage& page, const char* name,
                                                const std::uint8_t (&uuid)[kUuidBytes]) noexcept;
// What binds a process of the tenant: the lower of both, so that who scribbles on its own region gains nothing. `page` is null where
// none binds (apply_node() says which does). kNotReady: the page is being written; keep what you have. It looks through the page:
// ask when `rules` or `adopted` has moved and once a second, not at each launch.
[[nodiscard]] Result<ComputeRules> compute_rules(const Region& r, unsigned dev,
                                                 const NodePage* page, const char* name) noexcept;

// The governor: writes the line, raises `rules`, wakes who waits there.
void set_compute(Region& r, unsigned dev, const ComputeRules& rules) noexcept;
// The governor: the rate of copies, 10^6 bytes a second; 0: no limit.
void set_copy_rate(Region& r, unsigned dev, std::uint32_t mb_s) noexcept;
// The daemon: of a pair that the page names already; kNotFound.
[[nodiscard]] Status set_node_compute(NodePage& page, const char* name,
                                      const std::uint8_t (&uuid)[kUuidBytes],
                                      const ComputeRules& rules) noexcept;

// The sums as they stand; the tenant writes them, so they may be anything and may fall.
struct ComputeSums {
  std::uint64_t used_ns = 0, borrowed_ns = 0, forgiven_ns = 0;  // GPU time
  std::uint64_t held_ns = 0;                                    // of all threads together
  std::uint64_t launches = 0, copied_bytes = 0;                 // copied: the sum of moved_bytes
  std::uint64_t moved_bytes[kCopyDirections] = {};
  std::uint64_t stream_ops[kStreamClasses] = {};
  std::uint64_t streams_placed = 0, streams_left = 0;
  std::uint64_t gated_ns = 0, gates = 0, copy_held_ns = 0, longest_op_ns = 0;
  std::uint32_t rate_x100 = 0;  // in force
};
[[nodiscard]] ComputeSums compute_sums(const Region& r, unsigned dev) noexcept;
// From `before_ns` to `now_ns` of used_ns over `wall_ns`, hundredths of a percent; 0 if the sum fell or no time passed, at most the whole device.
[[nodiscard]] std::uint32_t delivered_x100(std::uint64_t before_ns, std::uint64_t now_ns,
                                           std::uint64_t wall_ns) noexcept;

}  // namespace bulkhead::shm
