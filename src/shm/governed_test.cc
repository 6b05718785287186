#include "shm/governed.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <thread>

namespace bulkhead::shm {
namespace {

constexpr std::uint8_t kUuid[kUuidBytes] = {1, 2, 3};
constexpr std::uint8_t kOther[kUuidBytes] = {9};
constexpr std::uint64_t kMs = 1'000'000;

TEST(Governed, WhatIsWrittenIsReadWhole) {
  const auto page = std::make_unique<NodePage>();
  Governed out;
  EXPECT_EQ(governed_index(*page, kUuid), kMaxDevices);
  EXPECT_FALSE(read_governed(*page, kMaxDevices, kUuid, out));
  EXPECT_FALSE(read_governed(*page, 0, kUuid, out)) << "nobody's place";
  const unsigned at = add_governed(*page, kUuid);
  EXPECT_EQ(add_governed(*page, kUuid), at);
  EXPECT_NE(add_governed(*page, kOther), at);
  write_governed(*page, at, {1, kGoverned, 3, 4, 5, 6, 7, 8, 9, 10});
  ASSERT_TRUE(read_governed(*page, at, kUuid, out));
  EXPECT_EQ(out.v_ns, 4u);
  EXPECT_EQ(out.contexts, 10u);
  EXPECT_FALSE(read_governed(*page, at, kOther, out));
  page->devices[at].version.fetch_or(1);  // its writer died
  EXPECT_FALSE(read_governed(*page, at, kUuid, out));
  write_governed(*page, at, {});  // the next one's
  EXPECT_TRUE(read_governed(*page, at, kUuid, out));
}

TEST(Governed, AReaderNeverSeesHalf) {
  const auto page = std::make_unique<NodePage>();
  const unsigned at = add_governed(*page, kUuid);
  write_governed(*page, at, {});
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (std::uint64_t n = 1; !stop.load(); ++n)
      write_governed(*page, at, {n, n, n, n, n, n, n, n, n, n});
  });
  std::uint64_t seen = 0;
  for (int i = 0; i < 20'000; ++i) {
    Governed g;
    if (!read_governed(*page, at, kUuid, g))
      continue;  // bounded: it may lose to a writer that never rests
    EXPECT_TRUE(g.beat_ns == g.contexts && g.v_ns == g.kappa && g.at_ns == g.loss);
    EXPECT_GE(g.beat_ns, seen);
    seen = g.beat_ns;
  }
  stop = true;
  writer.join();
}

TEST(Governed, AnOldBeatIsNobodysWord) {
  Governed g;
  g.beat_ns = 1'000 * kMs;
  EXPECT_FALSE(g.in_force(1'000 * kMs)) << "no daemon ever looked";
  g.state = kGoverned;
  EXPECT_TRUE(g.in_force(1'099 * kMs));
  EXPECT_FALSE(g.in_force(1'100 * kMs));
  g.state = kGoverned | kResting;
  EXPECT_TRUE(g.in_force(3'900 * kMs));
  EXPECT_FALSE(g.in_force(4'000 * kMs));
}

TEST(Governed, AProcessThatCannotTellHasNoWork) {
  MemCell cell{};
  EXPECT_FALSE(work_told(cell, 5).work);
  tell_work(cell, 100 * kMs, true, true, 7);
  WorkTold w = work_told(cell, 101 * kMs);
  EXPECT_TRUE(w.work && w.with_long);
  EXPECT_EQ(w.empty_ns, 7u);
  w = work_told(cell, 100 * kMs + kGovernorStale_ns);
  EXPECT_FALSE(w.work || w.with_long);
  EXPECT_EQ(w.empty_ns, 7 + kGovernorStale_ns);
  tell_work(cell, 200 * kMs, false, true, 9);
  w = work_told(cell, 203 * kMs);
  EXPECT_FALSE(w.work || w.with_long);
  EXPECT_EQ(w.empty_ns, 9 + 3 * kMs) << "it goes on";
  cell.work.store(~0ull);  // rubbish: in a far future
  EXPECT_FALSE(work_told(cell, 203 * kMs).work);
}

TEST(Governed, TheRatesPlaceIsTheTenantsOwn) {
  const auto page = std::make_unique<NodePage>();
  EXPECT_EQ(given_place(*page, "a", kUuid), nullptr);
  ASSERT_TRUE(set_node_limit(*page, "a", kOther, 1).ok());
  ASSERT_TRUE(set_node_limit(*page, "a", kUuid, 1).ok());
  EXPECT_EQ(given_place(*page, "a", kUuid), &page->given_x100[0][1]);
  EXPECT_EQ(given_place(*page, "b", kUuid), nullptr);
}

}  // namespace
}  // namespace bulkhead::shm
