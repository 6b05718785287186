// What launches without events take of a time, when they are taken to have run.
#include "policy/compute/loose.h"

#include <gtest/gtest.h>

#include <memory>

namespace bulkhead::policy::compute {
namespace {

const int kOne = 0, kTwo = 0;

TEST(LooseTime, IsSpreadOverItsSpanAndLeavesItsOwnStreamAlone) {
  LooseTime t;
  t.add({1'000, 2'000, 500, &kOne});
  EXPECT_EQ(t.within(1'000, 2'000, &kTwo), 500u);
  EXPECT_EQ(t.within(1'500, 3'000, &kTwo), 250u);
  EXPECT_EQ(t.within(2'000, 3'000, &kTwo), 0u);
  EXPECT_EQ(t.within(1'000, 2'000, &kOne), 0u);
  t.add({1'500, 2'500, 1'000, &kTwo});
  EXPECT_EQ(t.within(1'500, 2'000, nullptr), 250u + 500u);
}

TEST(LooseTime, IsNeverMoreThanTheTimeItself) {
  LooseTime t;
  t.add({1'000, 1'000, 500, &kOne});  // of no length
  t.add({1'000, 1'100, 500, &kOne});  // more than fits
  EXPECT_EQ(t.within(0, 10'000, nullptr), 100u);
}

TEST(LooseTime, KeepsTheSumWhenItIsFull) {
  const auto t = std::make_unique<LooseTime>();
  constexpr std::uint64_t kEach = 1'000, kMany = 3 * LooseTime::kSpans;
  for (std::uint64_t i = 0; i < kMany; ++i)
    t->add({i * kEach, (i + 1) * kEach, kEach / 2, i % 2 == 0 ? &kOne : &kTwo});
  EXPECT_EQ(t->within(0, kMany * kEach, nullptr), kMany * kEach / 2);
}

TEST(LooseTime, ForgetsWhatIsLongOver) {
  const auto t = std::make_unique<LooseTime>();
  t->add({0, 1'000, 1'000, &kOne});
  constexpr std::uint64_t kLater = 2 * LooseTime::kLongest_ns;
  for (std::uint64_t i = 0; i < LooseTime::kSpans; ++i)
    t->add({kLater + i, kLater + i + 1, 1, &kOne});
  EXPECT_EQ(t->within(0, 1'000, nullptr), 0u);
  EXPECT_EQ(t->within(kLater, kLater + 1'000, nullptr), LooseTime::kSpans);
}

}  // namespace
}  // namespace bulkhead::policy::compute
