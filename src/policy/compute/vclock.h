// The device's shared clock as one process sees it: V advances by the part of the device's time that a context with
// work can have had, dV/dt = (1 - loss) / n, n = contexts with work, loss = what switching takes while n > 1.
// docs/compute.md, 'What is charged'. Pure; one thread (the compute thread). Times: ns of CLOCK_MONOTONIC.
#pragma once
#include <cstdint>

namespace bulkhead::policy::compute {

inline constexpr std::uint32_t kSwitchLoss_x1000 =
    100;  // of a saturated, shared H200: 11 % of the time

// The rate of V with n contexts, in 1/2^20.
[[nodiscard]] constexpr std::uint64_t v_rate_q20(std::uint32_t contexts,
                                                 std::uint32_t loss_x1000) noexcept {
  if (contexts <= 1) return 1u << 20;
  return (1ull << 20) * (1'000 - loss_x1000) / 1'000 / contexts;
}

// A point of the two clocks; `shared_ns` is how long n has been above 1.
struct VPoint {
  std::uint64_t at_ns = 0;
  std::uint64_t v_ns = 0;
  std::uint64_t shared_ns = 0;
  std::uint32_t contexts =
      1;  // with work in the step that ended here; what follows is taken to be like it
};

// The governor's step; `contexts` is how many had work since the last point.
[[nodiscard]] constexpr VPoint advanced(const VPoint& last, std::uint64_t now,
                                        std::uint32_t contexts, std::uint32_t loss_x1000) noexcept {
  if (now <= last.at_ns) return last;
  const std::uint64_t dt = now - last.at_ns;
  const auto dv = static_cast<std::uint64_t>(
      (static_cast<unsigned __int128>(dt) * v_rate_q20(contexts, loss_x1000)) >> 20);
  return {now, last.v_ns + dv, last.shared_ns + (contexts > 1 ? dt : 0), contexts};
}

// The last 64 points that the process saw: a segment's stamps lie between them.
class VHistory {
 public:
  void add(const VPoint& p) noexcept {
    if (count_ != 0 && p.at_ns <= newest().at_ns) return;
    ring_[count_++ % kPoints] = p;
    if (count_ == 2 * kPoints) count_ = kPoints + count_ % kPoints;
  }
  // Between two points by the straight line; before the oldest at the oldest; after the newest at its pace.
  [[nodiscard]] VPoint at(std::uint64_t t) const noexcept {
    if (count_ == 0) return {t, t, 0, 1};
    VPoint next = newest();
    if (t >= next.at_ns) return advanced(next, t, next.contexts, kSwitchLoss_x1000);
    const std::uint32_t held = count_ < kPoints ? count_ : kPoints;
    for (std::uint32_t back = 2; back <= held; ++back) {
      const VPoint p = ring_[(count_ - back) % kPoints];
      if (p.at_ns <= t) return between(p, next, t);
      next = p;
    }
    return {t, next.v_ns, next.shared_ns, next.contexts};
  }

 private:
  static constexpr std::uint32_t kPoints = 64;
  [[nodiscard]] VPoint newest() const noexcept { return ring_[(count_ - 1) % kPoints]; }
  [[nodiscard]] static VPoint between(const VPoint& a, const VPoint& b, std::uint64_t t) noexcept {
    const auto part = [&](std::uint64_t d) {
      return static_cast<std::uint64_t>(static_cast<unsigned __int128>(d) * (t - a.at_ns) /
                                        (b.at_ns - a.at_ns));
    };
    return {t, a.v_ns + part(b.v_ns - a.v_ns), a.shared_ns + part(b.shared_ns - a.shared_ns),
            b.contexts};
  }
  VPoint ring_[kPoints] = {};
  std::uint32_t count_ = 0;
};

}  // namespace bulkhead::policy::compute
