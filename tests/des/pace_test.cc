// Programs that keep only a little queued, as frameworks do that wait for the step before the last: between two rows of a small
// tenant the large one runs alone. Who pays for switching then decides the share.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/des/programs.h"

namespace bulkhead::des {
namespace {

double error(unsigned broken, int q, Ns a_cost, Ns b_cost, std::size_t depth) {
  Machine m({.broken = broken});
  Tenant& a = m.add({.limit = hard(q), .program = closed_loop(a_cost), .depth = depth});
  Tenant& b = m.add({.limit = hard(100 - q), .program = closed_loop(b_cost), .depth = depth});
  m.run(6 * kSec);
  const double x = a.share(kSec, 6 * kSec), y = b.share(kSec, 6 * kSec);
  return 100 * x / (x + y) - q;
}

TEST(Pace, WhoKeepsLittleQueuedGetsWhatWasPromised) {
  double most_broken = 0;
  for (const Ns a : {120 * kUs, 180 * kUs}) {
    for (const Ns b : {120 * kUs, 180 * kUs, 1 * kMs}) {
      for (const int q : {10, 30, 50, 70}) {
        EXPECT_NEAR(error(kSound, q, a, b, 8), 0, 2) << a << "/" << b << " at " << q;
        if (q == 30)
          most_broken = std::max(most_broken, std::abs(error(kOnlySharedPays, q, a, b, 8)));
      }
    }
  }
  EXPECT_GT(most_broken, 1.5);
}

// Who is left alone pays nothing for a neighbour that was there once.
TEST(Pace, AloneAgainKappaIsNobodys) {
  Machine m;
  Tenant& a = m.add({.limit = hard(50), .program = closed_loop(180 * kUs), .depth = 8});
  m.add({hard(50), closed_loop(180 * kUs, 0, 0, 2 * kSec)});
  m.run(5 * kSec);
  EXPECT_NEAR(100 * a.share(2 * kSec + 100 * kMs, 5 * kSec), 50, 1);
}

}  // namespace
}  // namespace bulkhead::des
