// The table of costs: keys, quantiles, overflow, threads.
#include "policy/compute/cost.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <thread>
#include <vector>

namespace bulkhead::policy::compute {
namespace {

std::unique_ptr<CostTable> table() { return std::make_unique<CostTable>(); }

TEST(Cost, KeysTellShapesApartAndAreNeverZero) {
  std::set<std::uint64_t> keys;
  Shape s;
  keys.insert(kernel_key(0x1000, s));
  keys.insert(kernel_key(0x2000, s));
  for (std::uint32_t* field : {&s.grid[0], &s.grid[1], &s.grid[2], &s.block[0], &s.block[1],
                               &s.block[2], &s.cluster[0], &s.cluster[1], &s.shared_bytes}) {
    *field += 1;
    keys.insert(kernel_key(0x1000, s));
  }
  keys.insert(graph_key(0x1000, 0));
  keys.insert(graph_key(0x1000, 1));
  EXPECT_EQ(keys.size(), 13u);
  EXPECT_EQ(keys.count(0), 0u);
}

TEST(Cost, TheFirstSampleIsDroppedAndTheLowQuantilePredicts) {
  const auto t = table();
  CostEntry& e = find_or_add(*t, 77, 5'000);
  EXPECT_EQ(&find_or_add(*t, 77, 1), &e);
  EXPECT_EQ(predict(e, 5'000), 5'000u);
  EXPECT_FALSE(learn(e, 90'000'000, false));
  EXPECT_EQ(predict(e, 5'000), 5'000u);
  // One in four clean, three with a slice of somebody else's in it: the quantile finds the clean ones.
  for (int i = 0; i < 32; ++i) EXPECT_TRUE(learn(e, i % 4 == 0 ? 100'000u : 2'100'000u, false));
  EXPECT_EQ(predict(e, 0), 100'000u);
  for (int i = 0; i < 32; ++i) learn(e, 300'000, false);  // it became slower: forgotten in 32
  EXPECT_EQ(predict(e, 0), 300'000u);
  learn(e, ~0ull, false);
  EXPECT_EQ(predict(e, 0), 300'000u);
}

TEST(Cost, OneLaunchIn64IsTimedAloneThen1In256) {
  const auto t = table();
  CostEntry& e = find_or_add(*t, 77, 5'000);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(count_launch(e));
  for (int i = 0; i < 3; ++i) learn(e, 1'000, false);
  int alone = 0;
  for (int i = 0; i < 6'400; ++i) alone += count_launch(e);
  EXPECT_EQ(alone, 100);
  for (int i = 0; i < 32; ++i) learn(e, 1'000, false);
  alone = 0;
  for (int i = 0; i < 6'400; ++i) {
    const bool wanted = wants_sample(e);
    EXPECT_EQ(count_launch(e), wanted);
    alone += wanted;
  }
  EXPECT_EQ(alone, 25);
  alone = 0;
  for (int i = 0; i < 6'400; ++i) {
    if (wants_sample(e)) {
      alone += count_launch(e);
    } else {
      count_quick(e);
    }
  }
  EXPECT_EQ(alone, 25);
}

TEST(Cost, AFullTableFallsToCoarseEntries) {
  const auto t = table();
  std::set<CostEntry*> own;
  std::uint64_t coarse = 0;
  for (std::uint64_t i = 0; i < 20'000; ++i) {
    const std::uint64_t key = mix(1, i) | 1;
    CostEntry& e = find_or_add(*t, key, 1u << (i % 20));
    EXPECT_EQ(&find_or_add(*t, key, 1u << (i % 20)), &e);
    if (is_coarse(*t, e)) {
      EXPECT_EQ(&e - t->coarse, static_cast<std::ptrdiff_t>(i % 20));
      ++coarse;
    } else {
      EXPECT_TRUE(own.insert(&e).second);  // nobody else's
    }
  }
  EXPECT_EQ(own.size() + coarse, 20'000u);
  EXPECT_GT(own.size(), kCostEntries * 9 / 10);
  EXPECT_EQ(&find_or_add(*t, 1, ~0ull), &t->coarse[31]);
}

TEST(Cost, RacingThreadsAgreeOnTheEntry) {
  const auto t = table();
  std::vector<std::vector<CostEntry*>> found(4);
  std::vector<std::thread> threads;
  for (auto& mine : found)
    threads.emplace_back([&] {
      for (std::uint64_t i = 0; i < 2'000; ++i)
        mine.push_back(&find_or_add(*t, mix(3, i) | 1, 1'000));
    });
  for (std::thread& th : threads) th.join();
  for (const auto& mine : found) EXPECT_EQ(mine, found[0]);
}

}  // namespace
}  // namespace bulkhead::policy::compute
