// When launches without events are taken to have run: docs/compute.md, 'What a launch costs'. They are charged as predicted, so what is
// measured beside them must leave them their part of the time, or the two would be charged for more than the device was busy.
// Pure; one thread (the compute thread). All zeros at the start.
#pragma once
#include <cstdint>

#include "policy/compute/meter.h"

namespace bulkhead::policy::compute {

// What was charged for launches of one stream between two moments (CLOCK_MONOTONIC), `ns` <= until - from.
struct LooseSpan {
  std::uint64_t from_ns, until_ns, ns;
  const void* stream;  // whose; null: of several
};

class LooseTime {
 public:
  static constexpr std::uint32_t kSpans = 128;
  static constexpr std::uint64_t kLongest_ns = 1'000'000'000;  // what is older is forgotten

  // Later than those before it, to about a millisecond. When there is no room the two oldest become one.
  void add(const LooseSpan& span) noexcept {
    if (span.ns == 0) return;
    if (count_ == kSpans) {
      const LooseSpan first = at(0);
      LooseSpan& second = at(1);
      const std::uint64_t from = detail::least(first.from_ns, second.from_ns);
      const std::uint64_t until =
          first.until_ns > second.until_ns ? first.until_ns : second.until_ns;
      if (until - from <= kLongest_ns) {
        second = {from, until, first.ns + second.ns,
                  first.stream == second.stream ? first.stream : nullptr};
      }
      oldest_ = (oldest_ + 1) % kSpans;
      --count_;
    }
    at(count_++) = span;
  }
  // How much of this time they take, those of `stream` apart: it runs one thing after the other.
  [[nodiscard]] std::uint64_t within(std::uint64_t from, std::uint64_t until,
                                     const void* stream) const noexcept {
    std::uint64_t sum = 0;
    for (std::uint32_t i = count_; i-- != 0;) {
      const LooseSpan& s = spans_[(oldest_ + i) % kSpans];
      const std::uint64_t begin = s.from_ns > from ? s.from_ns : from;
      const std::uint64_t end = s.until_ns < until ? s.until_ns : until;
      if (begin >= end || (s.stream == stream && stream != nullptr)) continue;
      sum += detail::least(end - begin, detail::scaled(s.ns, end - begin, s.until_ns - s.from_ns));
    }
    return sum;
  }

 private:
  LooseSpan& at(std::uint32_t i) noexcept { return spans_[(oldest_ + i) % kSpans]; }
  LooseSpan spans_[kSpans]{};
  std::uint32_t oldest_ = 0, count_ = 0;
};

}  // namespace bulkhead::policy::compute
