// The protocol with threads standing for processes, for the thread sanitizer: each has a slot of its own,
// two share one (sibling threads of one process), a governor moves the limit.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "shm/quota.h"
#include "shm/test_region.h"

namespace bulkhead::shm {
namespace {

constexpr int kRounds = 3000;  // of each thread; the sanitizer makes a step fifty times dearer

TEST(QuotaThreads, NothingPassesTheLimitAndWhatFitsIsGranted) {
  TestRegion r{100};
  r.open_slots(4);
  std::atomic<std::uint64_t> truly_held{0}, overshoot{0}, false_refusals{0};
  std::atomic<bool> small_done{false};
  const auto once = [&](unsigned slot, std::uint64_t n) {
    if (!take(*r, slot, n)) return false;
    if (truly_held.fetch_add(n) + n > 100) overshoot.fetch_add(1);
    truly_held.fetch_sub(n);
    give(*r, slot, n);
    return true;
  };
  std::vector<std::thread> threads;
  for (const unsigned slot : {0u, 0u, 1u}) {  // two of them share a slot
    threads.emplace_back([&, slot] {
      while (!small_done.load()) once(slot, 40);
    });
  }
  threads.emplace_back([&] {
    while (!small_done.load()) once(2, 101);  // hopeless
  });
  threads.emplace_back([&] {
    for (int i = 0; i < kRounds; ++i) {
      if (!once(3, 20)) false_refusals.fetch_add(1);
    }
    small_done.store(true);
  });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(overshoot.load(), 0u);
  // 40 + 40 + 40 of three threads may fill the tenant: the refusals of 20 are then true. Not so below.
  EXPECT_EQ(held(*r), 0u);
}

TEST(QuotaThreads, TheSmallNeighbourIsNeverRefused) {
  TestRegion r{100};
  r.open_slots(3);
  std::atomic<bool> done{false};
  std::uint64_t refused = 0;
  std::vector<std::thread> threads;
  for (unsigned slot : {0u, 1u}) {
    threads.emplace_back([&, slot] {
      while (!done.load()) {
        if (take(*r, slot, 60)) give(*r, slot, 60);
      }
    });
  }
  threads.emplace_back([&] {
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
  std::vector<std::thread> threads;
  for (unsigned slot : {0u, 1u}) {
    threads.emplace_back([&, slot] {
      while (!done.load()) {
        if (take(*r, slot, 30)) give(*r, slot, 30);
        charge_forced(*r, slot, 0, 50 * kTestUnit);
        static_cast<void>(view(*r, 0));
        give(*r, slot, 50);
      }
    });
  }
  threads.emplace_back([&] {
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
