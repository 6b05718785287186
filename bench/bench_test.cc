// The bench's own arithmetic: a wrong quantile or interval would be believed.
#include <gtest/gtest.h>

#include <memory>

#include "bench/stats.h"
#include "bench/ticks.h"

namespace bulkhead::bench {
namespace {

TEST(Histogram, QuantilesAreRightToAPercent) {
  auto h = std::make_unique<Histogram>();
  *h = {};
  for (std::uint64_t v = 1; v <= 100'000; ++v) h->add(v);
  EXPECT_EQ(h->total, 100'000u);
  for (const double q : {0.001, 0.01, 0.5, 0.9, 0.99, 0.999})
    EXPECT_NEAR(h->quantile(q) / (q * 100'000), 1.0, 0.01) << q;
}

TEST(Histogram, SmallValuesAreExactAndHugeOnesKept) {
  auto h = std::make_unique<Histogram>();
  *h = {};
  h->add(0);
  h->add(77);
  h->add(~0ull);
  EXPECT_EQ(h->quantile(0), 0);
  EXPECT_EQ(h->quantile(0.5), 77);
  EXPECT_GT(h->quantile(1), 1e9);
}

TEST(Histogram, MergeAddsUp) {
  auto a = std::make_unique<Histogram>(), b = std::make_unique<Histogram>();
  *a = {};
  *b = {};
  for (int i = 0; i < 10; ++i) a->add(10), b->add(90);
  a->merge(*b);
  EXPECT_EQ(a->total, 20u);
  EXPECT_EQ(a->quantile(0.25), 10);
  EXPECT_EQ(a->quantile(0.75), 90);
}

TEST(Stats, Median) {
  EXPECT_EQ(median({}), 0);
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({4, 1, 3, 2}), 2.5);
}

TEST(Stats, IntervalHoldsAShiftAndTellsNoneFromOne) {
  std::vector<double> a, same, shifted;
  for (int i = 0; i < 100; ++i) {
    a.push_back((i * 37) % 100);
    same.push_back((i * 53) % 100);
    shifted.push_back((i * 71) % 100 + 50);
  }
  const Interval none = difference_of_medians(a, same), some = difference_of_medians(a, shifted);
  EXPECT_LE(none.low, 0);
  EXPECT_GE(none.high, 0);
  EXPECT_GT(some.low, 0);
  EXPECT_NEAR(some.middle, 50, 1);
}

}  // namespace
}  // namespace bulkhead::bench
