// What each thread keeps for its launches: one word, so that a usual launch looks at it once. Static storage of threads is scarce.
#pragma once
#include <cstdint>

namespace bulkhead::hook {

struct alignas(8) ThreadLaunch {
  std::uint16_t place;        // of its cache (compute_quick_way.h); 0: none
  std::uint16_t nccl_groups;  // between ncclGroupStart and the end of ncclGroupEnd: never held
  bool in_callback;           // it runs a host function that a stream called: never held
  std::uint8_t unused[3];

  // Something holds for the thread that a launch has to know of.
  [[nodiscard]] static bool unusual(std::uint64_t bits) noexcept { return bits > 0xffff; }
  [[nodiscard]] std::uint64_t bits() const noexcept {
    std::uint64_t b = 0;
    __builtin_memcpy(&b, this, sizeof b);
    return b;
  }
};
static_assert(sizeof(ThreadLaunch) == 8);
[[gnu::visibility("hidden")]] extern thread_local constinit ThreadLaunch thread_launch
    __attribute__((tls_model("initial-exec")));

}  // namespace bulkhead::hook
