#include "bench/ticks.h"

#include <bit>

#include "base/clock.h"

namespace bulkhead::bench {

double ns_per_tick() noexcept {
  static const double rate = [] {
    const std::uint64_t n0 = monotonic_ns();
    const std::uint64_t t0 = ticks();
    std::uint64_t n1 = n0;
    while (n1 - n0 < 20'000'000) n1 = monotonic_ns();
    return static_cast<double>(n1 - n0) / static_cast<double>(ticks() - t0);
  }();
  return rate;
}

// Values below kSteps have a bucket each; above, the top 8 bits (one of them always set) choose.
static unsigned bucket_of(std::uint64_t v) noexcept {
  if (v < Histogram::kSteps) return static_cast<unsigned>(v);
  const unsigned octave = static_cast<unsigned>(std::bit_width(v)) - 7;  // 1..57
  const unsigned step = static_cast<unsigned>(v >> (octave - 1)) - Histogram::kSteps;
  const unsigned b = octave * Histogram::kSteps + step;
  return b < Histogram::kBuckets ? b : Histogram::kBuckets - 1;
}

static double middle_of(unsigned b) noexcept {
  if (b < Histogram::kSteps) return b;
  const unsigned octave = b / Histogram::kSteps;
  const double step = Histogram::kSteps + b % Histogram::kSteps;
  return (step + 0.5) * static_cast<double>(1ull << (octave - 1));
}

void Histogram::add(std::uint64_t value) noexcept {
  ++count[bucket_of(value)];
  ++total;
}

void Histogram::merge(const Histogram& other) noexcept {
  for (unsigned b = 0; b < kBuckets; ++b) count[b] += other.count[b];
  total += other.total;
}

double Histogram::quantile(double q) const noexcept {
  if (total == 0) return 0;
  const auto rank = static_cast<std::uint64_t>(q * static_cast<double>(total - 1));
  std::uint64_t seen = 0;
  for (unsigned b = 0; b < kBuckets; ++b) {
    seen += count[b];
    if (seen > rank) return middle_of(b);
  }
  return middle_of(kBuckets - 1);
}

}  // namespace bulkhead::bench
