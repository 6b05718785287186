// The supervisor's thread: compares what NVML shows for each process of a tenant with its books,
// and tells the process what it holds beyond them (contexts, modules loaded late, heaps).
//
// Of several supervisors of one tenant one samples, the others wait for its lock. A figure is used
// only if the process's books did not change while NVML was asked. Because books lead the driver by
// one call (charged before, given back after), a figure can be too low for the length of a call: it
// raises what is told at once, and lowers it only after the books stood still for kSettle_ns.
#pragma once
#include <cstdint>
#include <string>

#include "base/bus_guard.h"
#include "gpu/nvml.h"
#include "shm/region.h"

namespace bulkhead::gpu {

inline constexpr std::uint64_t kFastest_ns = 20'000'000;  // while books move or a process is young
inline constexpr std::uint64_t kSlowest_ns = 1'000'000'000;  // idle: doubles up to it
inline constexpr std::uint64_t kYoung_ns = 10'000'000'000;
inline constexpr std::uint64_t kSettle_ns = 200'000'000;

// Pure, per slot and device: what to tell it, given what is seen. Times in ns of one clock.
class Observation {
 public:
  // `books`: held bytes that NVML shows and that are not `other`; `other`: what the process has
  // booked as such; `word`: changes whenever its books do. Returns the bytes to tell.
  std::uint64_t see(std::uint64_t nvml_bytes, std::uint64_t books, std::uint64_t other,
                    std::uint64_t word, std::uint64_t now_ns) noexcept {
    const std::uint64_t beyond = nvml_bytes > books ? nvml_bytes - books : 0;
    if (!any_ || word != word_) {
      since_ns_ = now_ns;
      told_ = other;  // what was told before is in it, or is of a context that is gone
    }
    if (beyond >= told_ || now_ns - since_ns_ >= kSettle_ns) told_ = beyond;
    any_ = true;
    word_ = word;
    return told_;
  }
  void forget() noexcept { any_ = false; }

 private:
  std::uint64_t told_ = 0;
  std::uint64_t word_ = 0;
  std::uint64_t since_ns_ = 0;
  bool any_ = false;
};

// Samples until the process ends, or returns when the region, guarded by `guard`, was cut short.
// `path` is the region's file, for the lock.
void sample(shm::Region& region, unsigned device_count, const Nvml& nvml, const std::string& path,
            const GuardedRange& guard);
// Before the process ends, if it was the one that samples: nobody need wait for it.
void stop_sampling(shm::Region& region) noexcept;

}  // namespace bulkhead::gpu
