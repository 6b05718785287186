#include "shm/governed.h"

#include <cstring>

#include "base/kill_point.h"

namespace bulkhead::shm {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr auto kAcquire = std::memory_order_acquire;
constexpr auto kRelease = std::memory_order_release;
constexpr int kTries = 1000;  // an entry is written in well under a microsecond
constexpr unsigned kFlagBits = 8;

}  // namespace

unsigned governed_index(const NodePage& page, const std::uint8_t (&uuid)[kUuidBytes]) noexcept {
  constexpr std::uint8_t kNone[kUuidBytes] = {};
  for (unsigned d = 0; d < kMaxDevices && std::memcmp(uuid, kNone, kUuidBytes) != 0; ++d)
    if (std::memcmp(page.devices[d].uuid, uuid, kUuidBytes) == 0) return d;
  return kMaxDevices;
}

bool read_governed(const NodePage& page, unsigned index, const std::uint8_t (&uuid)[kUuidBytes],
                   Governed& out) noexcept {
  if (index >= kMaxDevices) return false;
  const NodeDevice& d = page.devices[index];
  for (int tries = 0; tries < kTries; ++tries) {
    const std::uint64_t version = d.version.load(kAcquire);  // pairs with write_governed()
    if ((version & 1) != 0) continue;
    if (std::memcmp(d.uuid, uuid, kUuidBytes) != 0) return false;
    // acquire, each: pairs with write_governed(); what is newer shows in the version read below
    out = {d.beat_ns.load(kAcquire), d.state.load(kAcquire),     d.at_ns.load(kAcquire),
           d.v_ns.load(kAcquire),    d.shared_ns.load(kAcquire), d.pace.load(kAcquire),
           d.kappa.load(kAcquire),   d.slice_ns.load(kAcquire),  d.loss.load(kAcquire),
           d.contexts.load(kAcquire)};
    if (d.version.load(kRelaxed) == version) return true;  // ordered by the acquires above
  }
  return false;
}

const GivenRate* given_place(const NodePage& page, const char* name,
                             const std::uint8_t (&uuid)[kUuidBytes]) noexcept {
  const unsigned index = node_index(page, name);
  if (index >= kMaxTenants) return nullptr;
  const NodeTenant& tenant = page.tenants[index];
  const std::uint32_t count = tenant.device_count.load(kAcquire);  // pairs with set_node_limit()
  for (unsigned d = 0; d < count && d < kMaxDevices; ++d)
    if (std::memcmp(tenant.limits[d].uuid, uuid, kUuidBytes) == 0)
      return &page.given_x100[index][d];
  return nullptr;
}

unsigned add_governed(NodePage& page, const std::uint8_t (&uuid)[kUuidBytes]) noexcept {
  constexpr std::uint8_t kNone[kUuidBytes] = {};
  const unsigned known = governed_index(page, uuid);
  if (known != kMaxDevices) return known;
  for (unsigned d = 0; d < kMaxDevices; ++d) {
    NodeDevice& to = page.devices[d];
    if (std::memcmp(to.uuid, kNone, kUuidBytes) != 0) continue;
    to.version.fetch_or(1, std::memory_order_acq_rel);  // pairs with read_governed()
    std::atomic_thread_fence(kRelease);
    std::memcpy(to.uuid, uuid, kUuidBytes);
    to.version.fetch_add(1, kRelease);  // even; pairs with read_governed()
    return d;
  }
  return kMaxDevices;
}

void write_governed(NodePage& page, unsigned index, const Governed& g) noexcept {
  if (index >= kMaxDevices) return;
  NodeDevice& d = page.devices[index];
  d.version.fetch_or(1, std::memory_order_acq_rel);  // pairs with read_governed()
  // release pairs with the acquires in read_governed(): what follows is seen with odd
  std::atomic_thread_fence(kRelease);
  BH_KILL_POINT("node.governed");
  d.beat_ns.store(g.beat_ns, kRelease);      // this and the rest: pairs with read_governed()
  d.state.store(g.state, kRelease);          // as above
  d.at_ns.store(g.at_ns, kRelease);          // as above
  d.v_ns.store(g.v_ns, kRelease);            // as above
  d.shared_ns.store(g.shared_ns, kRelease);  // as above
  d.pace.store(g.pace, kRelease);            // as above
  d.kappa.store(g.kappa, kRelease);          // as above
  d.slice_ns.store(g.slice_ns, kRelease);    // as above
  d.loss.store(g.loss, kRelease);            // as above
  d.contexts.store(g.contexts, kRelease);    // as above
  d.version.fetch_add(1, kRelease);          // even
}

void tell_work(MemCell& cell, std::uint64_t at_ns, bool work, bool with_long,
               std::uint64_t empty_ns) noexcept {
  const std::uint64_t flags =
      (work ? std::uint64_t{kHasWork} : 0) | (work && with_long ? std::uint64_t{kHasLongWork} : 0);
  cell.empty_ns.store(empty_ns, kRelaxed);                         // ordered by the next
  cell.work.store((at_ns / 1000) << kFlagBits | flags, kRelease);  // pairs with work_told()
}

WorkTold work_told(const MemCell& cell, std::uint64_t now) noexcept {
  WorkTold out;
  const std::uint64_t word = cell.work.load(kAcquire);  // pairs with tell_work()
  if (word == 0) return out;
  // It may be one look newer than the word: the governor takes differences, and the next one is smaller.
  out.empty_ns = cell.empty_ns.load(kRelaxed);
  out.at_ns = (word >> kFlagBits) * 1000;
  out.work = (word & kHasWork) != 0;
  const bool ahead = out.at_ns > now;
  const std::uint64_t since = ahead ? 0 : now - out.at_ns;
  if (out.work && since < kGovernorStale_ns && out.at_ns < now + kGovernorStale_ns) {
    out.with_long = (word & kHasLongWork) != 0;
    return out;
  }
  out.work = false;
  out.empty_ns += since;
  return out;
}

}  // namespace bulkhead::shm
