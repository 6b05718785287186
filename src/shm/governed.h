// What the daemon's governor publishes in the node page, and what processes tell it: docs/compute.md 'The governor',
// docs/formats/node.md and region.md. The daemon alone writes the page. Libc only, no heap; any thread.
#pragma once
#include <cstdint>

#include "base/status.h"
#include "shm/node.h"
#include "shm/region.h"

namespace bulkhead::shm {

// Times: ns of CLOCK_MONOTONIC.
inline constexpr std::uint64_t kGovernorStale_ns =
    100'000'000;  // a beat this old is no word of anybody
inline constexpr std::uint64_t kRestingStale_ns =
    3'000'000'000;  // the same, of one that rests and looks each second

struct Governed {
  std::uint64_t beat_ns = 0, state = 0, at_ns = 0, v_ns = 0, shared_ns = 0, pace = 0, kappa = 0,
                slice_ns = 0, loss = 0, contexts = 0;  // as in NodeDevice
  // Whether it still says what is so.
  [[nodiscard]] bool in_force(std::uint64_t now) const noexcept {
    if ((state & kGoverned) == 0) return false;
    const std::uint64_t most = (state & kResting) != 0 ? kRestingStale_ns : kGovernorStale_ns;
    return now < beat_ns || now - beat_ns < most;
  }
};

// The place of a device; kMaxDevices: the page has none.
[[nodiscard]] unsigned governed_index(const NodePage& page,
                                      const std::uint8_t (&uuid)[kUuidBytes]) noexcept;
// False: it was being written all the while (bounded), or is another device's.
[[nodiscard]] bool read_governed(const NodePage& page, unsigned index,
                                 const std::uint8_t (&uuid)[kUuidBytes], Governed& out) noexcept;
// Where the rate of a tenant on a device stands in the page; null: the page does not name them. Good until the tenant is
// removed, then it is another's: the reader keeps it within its own floor and ceiling and asks anew each second.
[[nodiscard]] const GivenRate* given_place(const NodePage& page, const char* name,
                                           const std::uint8_t (&uuid)[kUuidBytes]) noexcept;

// The daemon's half. kMaxDevices: no place left.
[[nodiscard]] unsigned add_governed(NodePage& page,
                                    const std::uint8_t (&uuid)[kUuidBytes]) noexcept;
void write_governed(NodePage& page, unsigned index, const Governed& g) noexcept;
// One word, which its reader bounds; written only if it is another.
inline void give_rate(GivenRate& place, std::uint32_t rate_x100) noexcept {
  const auto rate = static_cast<std::uint16_t>(rate_x100);
  // relaxed, both: nothing is ordered by it
  if (place.load(std::memory_order_relaxed) != rate) place.store(rate, std::memory_order_relaxed);
}

// A process's words. `at_ns` now.
void tell_work(MemCell& cell, std::uint64_t at_ns, bool work, bool with_long,
               std::uint64_t empty_ns) noexcept;
struct WorkTold {
  std::uint64_t at_ns = 0, empty_ns = 0;
  bool work = false, with_long = false;
};
// As it stands, or the last that belonged together; `empty_ns` of one that has nothing queued goes on until `now`. What was told
// kGovernorStale_ns ago or more is of a process that cannot tell (stopped, or dead): it has no work.
[[nodiscard]] WorkTold work_told(const MemCell& cell, std::uint64_t now) noexcept;

}  // namespace bulkhead::shm
