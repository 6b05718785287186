// What the process's own thread does about a daemon, once a second (beat.cc). Nothing of it lies on any path of the
// program: no hook reads what is written here.
#pragma once
#include "base/status.h"
#include "shm/slots.h"

namespace bulkhead::hook {

// Lives in that thread. `adopted` in the region's header rises when a daemon takes the region over: then its node page
// is mapped (again), limits are lowered to it each second, and the process reports its slot, so that the daemon hears of
// its end at once. A daemon that does not answer is asked five times, a second apart, then each minute.
class DaemonLink {
 public:
  DaemonLink() noexcept = default;
  DaemonLink(const DaemonLink&) = delete;
  DaemonLink& operator=(const DaemonLink&) = delete;
  void second(shm::Seat seat, std::uint64_t boot_s) noexcept;

 private:
  [[nodiscard]] bool due(std::uint64_t boot_s) noexcept;
  [[nodiscard]] static Status join(shm::Seat seat) noexcept;
  [[nodiscard]] static Status take_beacons() noexcept;
  void look_for_beacons(std::uint64_t boot_s) noexcept;

  std::uint32_t adopted_ = 0;
  shm::Seat joined_{};
  unsigned tries_ = 0;
  std::uint64_t next_try_s_ = 0;
  std::uint64_t applied_s_ = 0;
  std::uint32_t latency_epoch_ = 0;
  bool has_beacons_ = false;  // as that epoch has them
  bool ever_asked_ = false;
  unsigned beacon_tries_ = 0;
  std::uint64_t next_beacons_s_ = 0;
  std::uint64_t granted_s_ = 0;
};

}  // namespace bulkhead::hook
