// The protocol with threads standing for processes, for the thread sanitizer: each has a slot of its own,
// two share one (sibling threads of one process), a governor moves the limit.
#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <thread>
#include <vector>

#include "shm/quota.h"
#include "shm/test_region.h"

namespace bulkhead::shm {
namespace {

constexpr int kRounds = 30'000;  // the sanitizer makes a step fifty times dearer

TEST(QuotaThreads, NothingPassesTheLimit) {
  TestRegion r{100};
  r.open_slots(4);
  std::atomic<std::uint64_t> truly_held{0}, overshoot{0};
  std::atomic<bool> small_done{false};
  const auto once = [&](unsigned slot, std::uint64_t n) {
    if (!take(*r, slot, n)) return false;
    if (truly_held.fetch_add(n) + n > 100) overshoot.fetch_add(1);
    truly_held.fetch_sub(n);
    give(*r, slot, n);
    return true;
  };
  std::vector<std::thread> threads;
  std::latch start{5};
  for (const unsigned slot : {0u, 0u, 1u}) {  // two of them share a slot
    threads.emplace_back([&, slot] {
      start.arrive_and_wait();
      while (!small_done.load()) once(slot, 40);
    });
  }
  threads.emplace_back([&] {
    start.arrive_and_wait();
    while (!small_done.load()) once(2, 101);  // hopeless
  });
  threads.emplace_back([&] {
    start.arrive_and_wait();
    for (int i = 0; i < kRounds; ++i) {
      once(3, 20);  // 40 + 40 + 40 may fill the tenant: a refusal may be true here, not so below
    }
    small_done.store(true);
  });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(overshoot.load(), 0u);
  EXPECT_EQ(held(*r), 0u);
}

TEST(QuotaThreads, TheSmallNeighbourIsNeverRefused) {
  TestRegion r{100};
  r.open_slots(3);
  std::atomic<bool> done{false};
  std::uint64_t refused = 0;
  std::latch start{3};
  std::vector<std::thread> threads;
  for (unsigned slot : {0u, 1u}) {
    threads.emplace_back([&, slot] {
      start.arrive_and_wait();
      while (!done.load()) {
        if (take(*r, slot, 60)) give(*r, slot, 60);
      }
    });
  }
  threads.emplace_back([&] {
    start.arrive_and_wait();
    for (int i = 0; i < kRounds; ++i) {
      if (take(*r, 2, 20)) {
        give(*r, 2, 20);
      } else {
        ++refused;
      }
    }
    done.store(true);
  });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(refused, 0u);
}

TEST(QuotaThreads, LimitsForcedChargesAndViewsMeanwhile) {
  TestRegion r{100};
  r.open_slots(3);
  std::atomic<bool> done{false};
  std::latch start{3};
  std::vector<std::thread> threads;
  for (unsigned slot : {0u, 1u}) {
    threads.emplace_back([&, slot] {
      start.arrive_and_wait();
      while (!done.load()) {
        if (take(*r, slot, 30)) give(*r, slot, 30);
        charge_forced(*r, slot, 0, 50 * kTestUnit);
        static_cast<void>(view(*r, 0));
        give(*r, slot, 50);
      }
    });
  }
  threads.emplace_back([&] {
    start.arrive_and_wait();
    for (int i = 0; i < kRounds / 4; ++i) {
      set_limit(*r, 0, 40 * kTestUnit);
      set_limit(*r, 0, 100 * kTestUnit);
    }
    done.store(true);
  });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(held(*r), 0u);
  EXPECT_TRUE(settle(*r, 0));
  EXPECT_TRUE(take(*r, 2, 100));
  EXPECT_EQ(r->slots[0].faults.load() + r->slots[1].faults.load(), 0u);
}

}  // namespace
}  // namespace bulkhead::shm
