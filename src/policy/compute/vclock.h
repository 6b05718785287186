// The device's shared clock as one process sees it: V advances by what a context with *long* work (operations too long
// for their stamps to be clean) can have had of the device's time. Over dt in which `short` ns were charged for short
// operations, which are known well, dV = (dt (1 - loss) - short) / l, l = contexts with long work, loss = what switching takes while more than one context has work. docs/compute.md, 'What is charged'. Pure; one
// thread (the compute thread). Times: ns of CLOCK_MONOTONIC.
#pragma once
#include <cstdint>

namespace bulkhead::policy::compute {

inline constexpr std::uint32_t kSwitchLoss_x1000 = 100;  // of a saturated, shared H200: 11 %
inline constexpr std::uint64_t kMostOwed_ns = 20'000'000;

// A point of the two clocks; `shared_ns` is how long more than one context had work.
struct VPoint {
  std::uint64_t at_ns = 0;
  std::uint64_t v_ns = 0;
  std::uint64_t shared_ns = 0;
  std::uint64_t owed_ns = 0;  // short work not yet taken off: it is told when it has ended
  std::uint32_t pace_q20 =
      0;  // dV/dt of the step that ended here; what follows is taken to be like it
  std::uint32_t shared = 0;  // it was
};

// What the governor saw since the last point.
struct Load {
  std::uint32_t contexts = 0;   // with work
  std::uint32_t with_long = 0;  // of these, with long work
  std::uint64_t short_ns = 0;   // charged for short operations, all tenants
};

[[nodiscard]] constexpr VPoint advanced(const VPoint& last, std::uint64_t now, const Load& load,
                                        std::uint32_t loss_x1000) noexcept {
  if (now <= last.at_ns) return last;
  const std::uint64_t dt = now - last.at_ns;
  const bool shared = load.contexts > 1;
  const std::uint64_t usable = shared ? dt - dt * loss_x1000 / 1'000 : dt;
  const std::uint64_t owed = last.owed_ns + load.short_ns;
  const std::uint64_t taken = owed < usable ? owed : usable;
  const std::uint64_t dv = (usable - taken) / (load.with_long > 1 ? load.with_long : 1);
  const std::uint64_t left = load.with_long == 0 ? 0 : owed - taken;  // nobody to take it from
  return {now,
          last.v_ns + dv,
          last.shared_ns + (shared ? dt : 0),
          left < kMostOwed_ns ? left : kMostOwed_ns,
          static_cast<std::uint32_t>((dv << 20) / dt),
          shared};
}

// The last 256 points that the process saw: a segment's stamps lie between them.
class VHistory {
 public:
  void add(const VPoint& p) noexcept {
    if (count_ != 0 && p.at_ns <= newest().at_ns) return;
    ring_[count_++ % kPoints] = p;
    if (count_ == 2 * kPoints) count_ = kPoints + count_ % kPoints;
  }
  // Whether what was going on until `t` is known. A segment is settled once its end is covered: until then it may look as
  // if nobody else had had work.
  [[nodiscard]] bool covers(std::uint64_t t) const noexcept {
    return count_ != 0 && t <= newest().at_ns;
  }
  // Between two points by the straight line; before the oldest at the oldest's pace; after the newest at its.
  [[nodiscard]] VPoint at(std::uint64_t t) const noexcept {
    if (count_ == 0) return {t, t, 0};
    VPoint next = newest();
    if (t >= next.at_ns) return after(next, t);
    const std::uint32_t held = count_ < kPoints ? count_ : kPoints;
    for (std::uint32_t back = 2; back <= held; ++back) {
      const VPoint p = ring_[(count_ - back) % kPoints];
      if (p.at_ns <= t) return between(p, next, t);
      next = p;
    }
    return before(next, t);
  }

 private:
  static constexpr std::uint32_t kPoints = 256;
  [[nodiscard]] VPoint newest() const noexcept { return ring_[(count_ - 1) % kPoints]; }
  [[nodiscard]] static VPoint after(const VPoint& p, std::uint64_t t) noexcept {
    const std::uint64_t dt = t - p.at_ns < (1ull << 40) ? t - p.at_ns : 1ull << 40;
    return {t,
            p.v_ns + ((dt * p.pace_q20) >> 20),
            p.shared_ns + (p.shared != 0 ? dt : 0),
            0,
            p.pace_q20,
            p.shared};
  }
  [[nodiscard]] static VPoint before(const VPoint& p, std::uint64_t t) noexcept {
    const std::uint64_t dt = p.at_ns - t < (1ull << 40) ? p.at_ns - t : 1ull << 40;
    const std::uint64_t v = (dt * p.pace_q20) >> 20, shared = p.shared != 0 ? dt : 0;
    return {t,
            p.v_ns > v ? p.v_ns - v : 0,
            p.shared_ns > shared ? p.shared_ns - shared : 0,
            0,
            p.pace_q20,
            p.shared};
  }
  [[nodiscard]] static VPoint between(const VPoint& a, const VPoint& b, std::uint64_t t) noexcept {
    const auto part = [&](std::uint64_t d) {
      return static_cast<std::uint64_t>(static_cast<unsigned __int128>(d) * (t - a.at_ns) /
                                        (b.at_ns - a.at_ns));
    };
    return {t,
            a.v_ns + part(b.v_ns - a.v_ns),
            a.shared_ns + part(b.shared_ns - a.shared_ns),
            0,
            b.pace_q20,
            b.shared};
  }
  VPoint ring_[kPoints] = {};
  std::uint32_t count_ = 0;
};

}  // namespace bulkhead::policy::compute
