// The checks of the other tests, held against policies that are wrong on purpose: each must be caught by the figure that
// it spoils. The sound policy passes the same figure.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/des/programs.h"

namespace bulkhead::des {
namespace {

// |share - cap| in points for 25 against 75, kernels of `a` and `b`.
double contended_error(unsigned broken, Ns a_cost, Ns b_cost) {
  Machine m({.broken = broken});
  Tenant& a = m.add({hard(25), closed_loop(a_cost)});
  Tenant& b = m.add({hard(75), closed_loop(b_cost)});
  m.run(4 * kSec);
  const double x = a.share(kSec, 4 * kSec), y = b.share(kSec, 4 * kSec);
  return std::abs(100 * x / (x + y) - 25);
}
double alone_error(unsigned broken, Ns cost) {
  Machine m({.broken = broken});
  Tenant& t = m.add({hard(25), closed_loop(cost)});
  m.run(4 * kSec);
  return std::abs(100 * t.share(kSec, 4 * kSec) - 25);
}

// Slices of others are charged to whom they interrupt: the one with the long operations is robbed.
TEST(Broken, ElapsedTimeAsChargeIsCaught) {
  EXPECT_LE(contended_error(kSound, 10 * kMs, 100 * kUs), 4);
  EXPECT_GT(contended_error(kElapsedCharge, 10 * kMs, 100 * kUs), 4);
}

// What a first guess says is what is charged for ever.
TEST(Broken, ChargesThatAreNeverSettledAreCaught) {
  EXPECT_LE(alone_error(kSound, 1 * kMs), 2);
  EXPECT_GT(alone_error(kNoSettle, 1 * kMs), 2);
}

// Peers that count launches: long kernels run for nothing, short ones starve.
TEST(Broken, ChargingByLaunchIsCaught) {
  for (const Ns cost : {20 * kUs, 1 * kMs}) {
    EXPECT_LE(alone_error(kSound, cost), 3) << cost;
    EXPECT_GT(alone_error(kPerLaunch, cost), 3) << cost;
  }
}

// A kernel of 10 s at 10 % is owed for 100 s: without the clamp its tenant is dead for that long.
TEST(Broken, DebtWithoutABoundIsCaught) {
  const auto longest = [](unsigned broken) {
    Machine m({.broken = broken});
    Tenant& t = m.add({hard(10), closed_loop(10 * kSec)});
    m.run(60 * kSec);
    return t.longest_wait_ns == pc::kMaxDebt_ns && t.tat.load() > m.now + t.rules.most_wait_ns;
  };
  EXPECT_FALSE(longest(kSound));
  EXPECT_TRUE(longest(kNoClamp));
}

TEST(Broken, HoardingWhileIdleIsCaught) {
  const auto worst = [](unsigned broken) {
    Machine m({.broken = broken});
    Tenant& t = m.add({hard(25), on_off(500 * kUs, 500 * kMs, 1500 * kMs)});
    m.run(6 * kSec);
    double most = 0;
    for (Ns at = 0; at + 100 * kMs <= 6 * kSec; at += kMs)
      most = std::max(most, 100 * t.share(at, at + 100 * kMs));
    return most;
  };
  EXPECT_LE(worst(kSound), 25 + 10.5);
  EXPECT_GT(worst(kHoard), 25 + 10.5);
}

// Without kappa switching is nobody's, and who is promised least pays least of it.
TEST(Broken, SwitchingThatNobodyPaysForIsCaught) {
  EXPECT_LE(contended_error(kSound, 100 * kUs, 100 * kUs), 1.5);
  EXPECT_GT(contended_error(kNoKappa, 100 * kUs, 100 * kUs), 1.5);
}

}  // namespace
}  // namespace bulkhead::des
