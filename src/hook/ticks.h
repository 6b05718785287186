// For the bench alone: the cycles that pass inside the library, from the first door to any moment, without those in the
// driver. Compiled to nothing unless BH_TICKS is defined (the library libbulkhead-ticks.so of a build with
// -DBH_TICKS=ON); a release has neither the counter nor its export.
//
// A thread is inside or not: Ticks enters, TicksAway leaves for a call into the driver or the loader's own work, both
// for a scope and however nested. The library's own thread is not counted.
#pragma once

#if defined(BH_TICKS)
#include <x86intrin.h>

#include <atomic>
#include <cstdint>

namespace bulkhead::hook {

[[gnu::visibility("hidden")]] inline constinit std::atomic<std::uint64_t> ticks_inside{0};
[[gnu::visibility("hidden")]] inline thread_local constinit std::uint64_t ticks_since
    __attribute__((tls_model("initial-exec"))) = 0;  // 0: not inside

inline void ticks_enter() noexcept { ticks_since = __rdtsc() | 1; }
inline void ticks_leave() noexcept {
  ticks_inside.fetch_add(__rdtsc() - ticks_since, std::memory_order_relaxed);  // a statistic
  ticks_since = 0;
}
template <bool kInside>
class TicksScope {
 public:
  TicksScope() noexcept : was_(ticks_since != 0) {
    if (was_ != kInside) kInside ? ticks_enter() : ticks_leave();
  }
  ~TicksScope() {
    if (was_ != kInside) kInside ? ticks_leave() : ticks_enter();
  }
  TicksScope(const TicksScope&) = delete;
  TicksScope& operator=(const TicksScope&) = delete;

 private:
  bool was_;
};
using Ticks = TicksScope<true>;
using TicksAway = TicksScope<false>;

}  // namespace bulkhead::hook

#define BH_TICKS_IN const ::bulkhead::hook::Ticks bh_ticks
#define BH_TICKS_AWAY const ::bulkhead::hook::TicksAway bh_ticks_away
#else
#define BH_TICKS_IN static_cast<void>(0)
#define BH_TICKS_AWAY static_cast<void>(0)
#endif
