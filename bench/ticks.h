// The cycle counter, its rate, and a histogram of its differences.
#pragma once
#include <array>
#include <cstdint>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace bulkhead::bench {

// Ordered against earlier loads and stores of the measured call; about 10-20 ns, in every sample of every variant alike.
inline std::uint64_t ticks() noexcept {
#if defined(__x86_64__)
  unsigned aux;
  return __rdtscp(&aux);
#elif defined(__aarch64__)
  std::uint64_t v;
  asm volatile("isb; mrs %0, cntvct_el0" : "=r"(v)::"memory");
  return v;
#else
#error "no cycle counter known for this architecture"
#endif
}

// Nanoseconds a tick: measured against CLOCK_MONOTONIC over 20 ms at the first call.
double ns_per_tick() noexcept;

// Log-linear counts of ticks: 128 steps an octave, so a quantile is right to 0.8 %. Plain memory: it may lie in a
// mapping that another process reads later.
struct Histogram {
  static constexpr unsigned kSteps = 128;
  static constexpr unsigned kBuckets = kSteps * 33;
  std::uint64_t total;
  std::array<std::uint32_t, kBuckets> count;

  void add(std::uint64_t value) noexcept;
  void merge(const Histogram& other) noexcept;
  // The q-th quantile (0..1) in ticks; 0 if empty.
  [[nodiscard]] double quantile(double q) const noexcept;
};

}  // namespace bulkhead::bench
