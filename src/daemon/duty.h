// A duty: one small task of the control loop. None of them waits, syncs a file, or calls into the driver.
#pragma once
#include <cstdint>

namespace bulkhead::daemon {

// The clocks at one turn of the loop; a test passes its own. unix_ns may jump, the others do not.
struct Now {
  std::uint64_t mono_ns = 0;  // CLOCK_MONOTONIC
  std::uint64_t boot_ns = 0;  // CLOCK_BOOTTIME
  std::int64_t unix_ns = 0;   // CLOCK_REALTIME
};
[[nodiscard]] Now read_clocks() noexcept;

class Duty {
 public:
  Duty() = default;
  Duty(const Duty&) = delete;
  Duty& operator=(const Duty&) = delete;
  virtual ~Duty() = default;
  // Does what is due. Returns in how many milliseconds it wants to be called again at the latest; -1: only when one
  // of its descriptors is ready (or nothing is due any more).
  virtual int tick(const Now& now) = 0;
  virtual const char* name() const = 0;
};

}  // namespace bulkhead::daemon
