// Tenants whose every launch is a programmatic dependent of the one before, as the matrix products of libraries are on Hopper:
// no event may stand between two of them that overlap, and still their cost has to be known. The broken variant is what the
// library did first: such a stream was in a segment only by chance, and no segment of it ended in time to teach.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/des/programs.h"

namespace bulkhead::des {
namespace {

constexpr Ns kGemm = 170 * kUs;

double alone_share(unsigned broken, int q, const Programs& program, Ns from, Ns to,
                   std::uint64_t* parted = nullptr) {
  Machine m({.broken = broken});
  Tenant& t = m.add({hard(q), program});
  m.run(to);
  if (parted != nullptr) *parted = m.parted;
  return 100 * t.share(from, to);
}

TEST(Dependents, AloneUnderACapAreTheCap) {
  for (const Ns cost : {20 * kUs, kGemm, 1 * kMs, 10 * kMs}) {
    for (const int q : {10, 25, 50, 75, 90}) {
      std::uint64_t parted = 0;
      EXPECT_NEAR(alone_share(kSound, q, dependents(cost), 0, 4 * kSec, &parted), q, 2)
          << cost << " ns at " << q;
      EXPECT_EQ(parted, 0u) << cost << " ns at " << q;
    }
  }
  for (const int q : {25, 50})
    EXPECT_GT(std::abs(alone_share(kBlindToDependents, q, dependents(kGemm), 0, 4 * kSec) - q), 4);
}

// The device's clock falls under load: what was learned first is too low from then on.
TEST(Dependents, WhoseCostRisesAreLearnedAnew) {
  for (const int q : {25, 50, 90}) {
    const auto program = dependents(140 * kUs, kSec, kGemm);
    std::uint64_t parted = 0;
    EXPECT_NEAR(alone_share(kSound, q, program, 2 * kSec, 6 * kSec, &parted), q, 2) << q;
    EXPECT_EQ(parted, 0u) << q;
  }
}

TEST(Dependents, ContendedAreInTheProportionPromised) {
  const auto error = [](unsigned broken, int q, const Programs& other, std::uint64_t& parted) {
    Machine m({.broken = broken});
    Tenant& a = m.add({hard(q), dependents(kGemm)});
    Tenant& b = m.add({hard(100 - q), other});
    m.run(6 * kSec);
    parted = m.parted;
    const double x = a.share(kSec, 6 * kSec), y = b.share(kSec, 6 * kSec);
    return 100 * x / (x + y) - q;
  };
  std::uint64_t parted = 0;
  for (const Programs& other :
       {dependents(kGemm), closed_loop(kGemm), closed_loop(1 * kMs), closed_loop(10 * kMs)}) {
    for (const int q : {25, 50, 75}) {
      EXPECT_NEAR(error(kSound, q, other, parted), 0, 4) << q;
      EXPECT_EQ(parted, 0u) << q;
    }
  }
  EXPECT_GT(std::abs(error(kBlindToDependents, 25, closed_loop(kGemm), parted)), 4);
}

// Few launches of many keys: each is measured first, and a stream that is never full is not made to wait for ever.
TEST(Dependents, OfManyKeysAndWithPausesAreTheCap) {
  const Programs program = [](std::size_t) {
    return [n = 0u](Ns, Rng& rng) mutable -> Step {
      if (++n % 12 == 0) return {Step::kSync};
      const Ns cost = (20 + rng() % 40 * 10) * kUs;
      return {Step::kLaunch, cost, cost | 1, 0, 1, true};
    };
  };
  for (const int q : {10, 25, 50}) {
    std::uint64_t parted = 0;
    EXPECT_NEAR(alone_share(kSound, q, program, 0, 6 * kSec, &parted), q, 3) << q;
    EXPECT_EQ(parted, 0u) << q;
  }
}

}  // namespace
}  // namespace bulkhead::des
