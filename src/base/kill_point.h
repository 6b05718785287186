// BH_KILL_POINT("name"): a place where a test may end the process with SIGKILL. Compiled to nothing
// unless the build has BH_KILL_POINTS (preset `kill`). A test arms one with
// bulkhead::arm_kill_point(name, nth): the nth pass through it kills.
#pragma once
#include <csignal>
#include <cstdint>
#include <cstring>

namespace bulkhead {

#ifdef BH_KILL_POINTS
struct KillPoint {
  const char* name = nullptr;
  std::uint64_t left = 0;
};
inline constinit KillPoint armed_kill_point{};
inline void arm_kill_point(const char* name, std::uint64_t nth) noexcept {
  armed_kill_point = {name, nth};
}
inline void kill_point(const char* name) noexcept {
  if (armed_kill_point.name == nullptr || std::strcmp(armed_kill_point.name, name) != 0) return;
  if (--armed_kill_point.left == 0) std::raise(SIGKILL);
}
#define BH_KILL_POINT(name) ::bulkhead::kill_point(name)
#else
#define BH_KILL_POINT(name) static_cast<void>(0)
#endif

}  // namespace bulkhead
