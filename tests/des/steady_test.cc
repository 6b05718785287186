// Light kernels whose cost is steady are measured seldom (policy/compute/steady.h), and nobody's share is another for it.
#include <gtest/gtest.h>

#include <cmath>
#include <utility>

#include "tests/des/programs.h"

namespace bulkhead::des {
namespace {

// Kernels of one key, back to back, that take `later_ns` from `change` on.
Programs changing(Ns cost_ns, Ns change, Ns later_ns) {
  return [=](std::size_t) {
    return [=](Ns now, Rng&) -> Step {
      return {Step::kLaunch, now < change ? cost_ns : later_ns, cost_ns | 1};
    };
  };
}

TEST(Steady, AShareIsHeldWithFewEvents) {
  // launches an event; with every segment measured 34, 20 and 14
  for (const auto& [cost, least] : {std::pair{2 * kUs, 80}, {5 * kUs, 45}, {8 * kUs, 25}}) {
    for (const double q : {10., 50., 90.}) {
      Machine whole;
      Tenant& all = whole.add({{.limited = false}, closed_loop(cost)});
      whole.run(2 * kSec);
      const double most = all.share(0, 2 * kSec);
      Machine m;
      Tenant& t = m.add({hard(q), closed_loop(cost)});
      m.run(3 * kSec);
      EXPECT_NEAR(100 * t.share(kSec, 3 * kSec) / most, q, 0.5) << cost << " ns";
      EXPECT_GE(t.launches, t.stamps * static_cast<std::uint64_t>(least)) << cost << " ns at " << q;
    }
  }
}

// Its cost is another from one moment on: within 50 ms it is charged by it.
TEST(Steady, ACostThatChangesIsSeenAtOnce) {
  for (const Ns later : {2 * kUs, 9 * kUs}) {
    Machine m;
    Tenant& t = m.add({hard(50), changing(5 * kUs, kSec, later)});
    m.run(2 * kSec);
    // the gap between two kernels is the device's time as well
    const double part =
        static_cast<double>(later) / static_cast<double>(later + m.device.model.gap_ns);
    const double got = 100 * t.share(kSec + 50 * kMs, 2 * kSec) / part;
    EXPECT_NEAR(got, 50, 1.5) << later;
  }
}
TEST(Steady, NeverAskingAgainIsCaught) {
  Machine m({.broken = kNeverAsksAgain});
  Tenant& t = m.add({hard(50), changing(5 * kUs, kSec, 9 * kUs)});
  m.run(2 * kSec);
  const double part = 9. * kUs / static_cast<double>(9 * kUs + m.device.model.gap_ns);
  EXPECT_GT(100 * t.share(kSec + 50 * kMs, kSec + 150 * kMs) / part, 53);
}

// Beside another everything is measured, and shares are what they were.
TEST(Steady, BesideOthersNothingIsLeftOut) {
  Machine m;
  Tenant& a = m.add({hard(30), closed_loop(5 * kUs)});
  Tenant& b = m.add({hard(70), closed_loop(100 * kUs)});
  m.run(4 * kSec);
  const double x = a.share(kSec, 4 * kSec), y = b.share(kSec, 4 * kSec);
  EXPECT_NEAR(100 * x / (x + y * 5 / 6.6), 30, 3);
  EXPECT_GE(a.stamps * 30, a.launches);
}

}  // namespace
}  // namespace bulkhead::des
