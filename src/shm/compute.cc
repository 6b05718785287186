#include "shm/compute.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstring>

#include "base/kill_point.h"
#include "shm/own.h"

namespace bulkhead::shm {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr auto kAcquire = std::memory_order_acquire;
constexpr auto kRelease = std::memory_order_release;

}  // namespace

ComputeRules in_range(const ComputeRules& r) noexcept {
  ComputeRules out;
  if (r.floor_x100 == 0) return out;
  out.floor_x100 = std::min(r.floor_x100, kWholeDevice_x100);
  out.ceiling_x100 = std::clamp(r.ceiling_x100, out.floor_x100, kWholeDevice_x100);
  out.burst_us = std::min(r.burst_us == 0 ? kBurst_us : r.burst_us, kMostPace_us);
  out.window_us = std::min(r.window_us == 0 ? kWindow_us : r.window_us, kMostPace_us);
  out.dampening_x1000 =
      r.dampening_x1000 == 0 ? kDampening_x1000 : std::min(r.dampening_x1000, std::uint32_t{1000});
  return out;
}

ComputeRules lower_of(const ComputeRules& a, const ComputeRules& b) noexcept {
  if (!b.limited()) return a;
  if (!a.limited()) return b;
  ComputeRules out = a;
  out.floor_x100 = std::min(a.floor_x100, b.floor_x100);
  out.ceiling_x100 = std::max(out.floor_x100, std::min(a.ceiling_x100, b.ceiling_x100));
  out.burst_us = std::min(a.burst_us, b.burst_us);
  out.window_us = std::min(a.window_us, b.window_us);
  return out;
}

// orders: relaxed; `rules` tells whether they belong together, and the caller has read it before
ComputeRules region_compute(const Region& r, unsigned dev) noexcept {
  const ComputeEntry& e = r.compute[dev];
  ComputeRules out;
  out.floor_x100 = e.floor_x100.load(kRelaxed);
  const bool borrows = (e.flags.load(kRelaxed) & kComputeBorrow) != 0;
  out.ceiling_x100 = borrows ? e.ceiling_x100.load(kRelaxed) : out.floor_x100;
  out.burst_us = e.burst_us.load(kRelaxed);
  out.window_us = e.window_us.load(kRelaxed);
  out.dampening_x1000 = e.dampening_x1000.load(kRelaxed);
  return in_range(out);
}

void set_compute(Region& r, unsigned dev, const ComputeRules& wanted) noexcept {
  const ComputeRules rules = in_range(wanted);
  ComputeEntry& e = r.compute[dev];
  // relaxed: ordered by `rules` below
  e.ceiling_x100.store(rules.ceiling_x100, kRelaxed);
  e.burst_us.store(rules.burst_us, kRelaxed);
  e.window_us.store(rules.window_us, kRelaxed);
  e.dampening_x1000.store(rules.dampening_x1000, kRelaxed);
  e.flags.store(rules.borrows() ? std::uint32_t{kComputeBorrow} : 0, kRelaxed);
  e.floor_x100.store(rules.floor_x100, kRelaxed);
  BH_KILL_POINT("compute.stored");
  e.rules.fetch_add(1,
                    kRelease);  // pairs with the acquire of a process that looks whether it moved
  ::syscall(SYS_futex, &e.rules, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void set_copy_rate(Region& r, unsigned dev, std::uint32_t mb_s) noexcept {
  r.compute[dev].copy_rate_mb_s.store(mb_s, kRelaxed);  // one number, read anew at each copy
}

Result<ComputeRules> compute_rules(const Region& r, unsigned dev, const NodePage* page,
                                   const char* name) noexcept {
  const ComputeRules own = region_compute(r, dev);
  if (page == nullptr) return own;
  std::uint8_t uuid[kUuidBytes];
  std::memcpy(uuid, r.devices[dev].uuid, sizeof uuid);
  const Result<ComputeRules> promised = node_compute(*page, name, uuid);
  if (promised.ok()) return lower_of(own, *promised);
  // A device that the page does not name is not granted at all: that is the memory's part.
  if (promised.status().code() == Errc::kNotFound) return own;
  return promised.status();
}

// orders: relaxed; statistics all
void add_own_copies(const Region& r, unsigned device, std::uint64_t (&moved)[kCopyDirections],
                    std::uint64_t& copies) noexcept {
  const std::uint32_t high = r.header.slots_high.load(kRelaxed);
  for (unsigned s = 0; s < high && s < kMaxSlots; ++s) {
    const ProcSlot& slot = r.slots[s];
    if (slot.own_device.load(kRelaxed) != device + 1) continue;
    for (unsigned i = 0; i < kCopyDirections; ++i) moved[i] += slot.own_moved[i].load(kRelaxed);
    copies += slot.own_copies.load(kRelaxed);
  }
}

// orders: relaxed; as above
void moved_bytes(const Region& r, std::uint64_t (&moved)[kCopyDirections]) noexcept {
  for (unsigned d = 0; d < kMaxDevices; ++d) {
    std::uint64_t copies = 0;
    for (unsigned i = 0; i < kCopyDirections; ++i)
      moved[i] += r.compute[d].moved_bytes[i].load(kRelaxed);
    add_own_copies(r, d, moved, copies);
  }
}

// orders: relaxed; statistics all
ComputeSums compute_sums(const Region& r, unsigned dev) noexcept {
  const ComputeEntry& e = r.compute[dev];
  ComputeSums out;
  out.used_ns = e.used_ns.load(kRelaxed);
  out.borrowed_ns = e.borrowed_ns.load(kRelaxed);
  out.forgiven_ns = e.forgiven_ns.load(kRelaxed);
  out.held_ns = e.held_ns.load(kRelaxed);
  out.launches = e.launches.load(kRelaxed);
  for (unsigned i = 0; i < kCopyDirections; ++i)
    out.moved_bytes[i] = e.moved_bytes[i].load(kRelaxed);
  for (unsigned i = 0; i < kStreamClasses; ++i) out.stream_ops[i] = e.stream_ops[i].load(kRelaxed);
  add_own_copies(r, dev, out.moved_bytes, out.stream_ops[kCopyOps]);
  for (const std::uint64_t bytes : out.moved_bytes) out.copied_bytes = out.copied_bytes + bytes;
  out.streams_placed = e.streams_placed.load(kRelaxed);
  out.streams_left = e.streams_left.load(kRelaxed);
  out.gated_ns = e.gated_ns.load(kRelaxed);
  out.gates = e.gates.load(kRelaxed);
  out.copy_held_ns = e.copy_held_ns.load(kRelaxed);
  out.longest_op_ns = e.longest_op_ns.load(kRelaxed);
  out.rate_x100 = e.rate_x100.load(kRelaxed);
  return out;
}

std::uint32_t delivered_x100(std::uint64_t before_ns, std::uint64_t now_ns,
                             std::uint64_t wall_ns) noexcept {
  if (wall_ns == 0 || now_ns <= before_ns) return 0;
  __extension__ using Wide = unsigned __int128;
  const Wide share = static_cast<Wide>(now_ns - before_ns) * kWholeDevice_x100 / wall_ns;
  return share < kWholeDevice_x100 ? static_cast<std::uint32_t>(share) : kWholeDevice_x100;
}

}  // namespace bulkhead::shm
