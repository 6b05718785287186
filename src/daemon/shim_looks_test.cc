// Looks at processes that may hang: nobody but who makes them hang waits.
#include "daemon/shim_looks.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <set>

#include "base/clock.h"
#include "daemon/loop.h"

namespace bulkhead::daemon {
namespace {

// Looks hang until their process is let go. Outlives the threads.
struct Gate {
  std::mutex mutex;
  std::condition_variable changed;
  std::set<std::uint32_t> held, seen;
  bool look(std::uint32_t pid) {
    std::unique_lock lock{mutex};
    seen.insert(pid);
    changed.notify_all();
    changed.wait(lock, [&] { return !held.contains(pid); });
    return pid % 2 == 0;
  }
  void let(std::uint32_t pid) {
    const std::lock_guard lock{mutex};
    held.erase(pid);
    changed.notify_all();
  }
  void hold(std::uint32_t pid) {
    const std::lock_guard lock{mutex};
    held.insert(pid);
  }
  void wait_seen(std::uint32_t pid) {
    std::unique_lock lock{mutex};
    changed.wait(lock, [&] { return seen.contains(pid); });
  }
  bool saw(std::uint32_t pid) {
    const std::lock_guard lock{mutex};
    return seen.contains(pid);
  }
};

class ShimLooksTest : public testing::Test {
 protected:
  ShimLooksTest() {
    EXPECT_TRUE(
        looks.open(loop.poller(), [g = gate](std::uint32_t pid) { return g->look(pid); }).ok());
    loop.add(looks);
  }
  void ask(std::uint32_t pid, const std::string& tenant) {
    const bool now = looks.ask({pid, 5, tenant}, [this, pid, tenant] {
      EXPECT_TRUE(looks.ask({pid, 5, tenant}, [] { FAIL() << "it is known"; }));
      answers[pid] = looks.has(pid) ? 1 : 0;
      EXPECT_FALSE(looks.has(pid + 2));
      ++calls;
    });
    EXPECT_FALSE(now);
  }
  void until(const std::function<bool()>& done) {
    const std::uint64_t end_ns = monotonic_ns() + 60'000'000'000ull;
    while (!done()) {
      ASSERT_LT(monotonic_ns(), end_ns) << "it does not come";
      loop.turn(20);
    }
  }
  std::shared_ptr<Gate> gate = std::make_shared<Gate>();
  Loop loop;
  ShimLooks looks;
  std::map<std::uint32_t, int> answers;
  int calls = 0;
};

TEST_F(ShimLooksTest, OneThatHangsHoldsNobodyElse) {
  gate->hold(2);
  ask(2, "slow");
  ask(4, "a");
  ask(5, "b");
  until([&] { return answers.size() == 2; });
  EXPECT_EQ(answers[4], 1);
  EXPECT_EQ(answers[5], 0);
  EXPECT_EQ(looks.looking(), 1u);
  EXPECT_FALSE(looks.has(4));  // known while it is answered, not for ever
  gate->let(2);
  until([&] { return answers.contains(2); });
  EXPECT_EQ(answers[2], 1);
  EXPECT_EQ(looks.looking(), 0u);
}

TEST_F(ShimLooksTest, OneLookAProcessAndAFewATenant) {
  for (std::uint32_t pid = 10; pid < 10 + ShimLooks::kMostOfOne + 3; ++pid) {
    gate->hold(pid);
    ask(pid, "slow");
    ask(pid, "slow");
  }
  gate->wait_seen(10);
  EXPECT_EQ(looks.looking(), ShimLooks::kMostOfOne);
  EXPECT_EQ(looks.waiting(), 3u);
  ask(100, "quick");
  until([&] { return answers.contains(100); });
  EXPECT_FALSE(gate->saw(10 + ShimLooks::kMostOfOne));
  for (std::uint32_t pid = 10; pid < 10 + ShimLooks::kMostOfOne + 3; ++pid) gate->let(pid);
  until([&] { return looks.looking() + looks.waiting() == 0; });
  EXPECT_EQ(answers.size(), ShimLooks::kMostOfOne + 4);
  EXPECT_EQ(calls, 2 * (static_cast<int>(ShimLooks::kMostOfOne) + 3) + 1);
}

TEST_F(ShimLooksTest, WhatWaitsForATenantStaysFew) {
  constexpr auto kLast = static_cast<std::uint32_t>(1000 + 2 * ShimLooks::kMostWaiting);
  for (std::uint32_t pid = 1000; pid < kLast; ++pid) {
    gate->hold(pid);
    ask(pid, "slow");
    EXPECT_LE(looks.waiting(), ShimLooks::kMostWaiting);
  }
  for (int i = 0; i < 20; ++i) ask(kLast - 1, "slow");
  constexpr std::uint32_t kFirstWaiting = 1000 + ShimLooks::kMostOfOne;
  until([&] { return answers.contains(kFirstWaiting) && answers.contains(kLast - 1); });
  EXPECT_EQ(answers[kFirstWaiting], 0);  // nobody looked
  EXPECT_EQ(answers[kLast - 1], 0);      // the oldest of too many from one process
  EXPECT_FALSE(answers.contains(1000));
  for (std::uint32_t pid = 1000; pid < kLast; ++pid) gate->let(pid);
  until([&] { return looks.looking() + looks.waiting() == 0; });
}

TEST_F(ShimLooksTest, EndsWhileALookHangs) {
  gate->hold(2);
  {
    ShimLooks other;
    ASSERT_TRUE(
        other.open(loop.poller(), [g = gate](std::uint32_t pid) { return g->look(pid); }).ok());
    EXPECT_FALSE(other.ask({2, 5, "slow"}, [] {}));
    gate->wait_seen(2);
    EXPECT_FALSE(other.wait(2, 1).has_value());
    EXPECT_EQ(other.wait(4, 60'000), true);
    EXPECT_EQ(other.wait(5, 60'000), false);
  }
  gate->let(2);  // its thread finds nobody
  ask(6, "a");
  until([&] { return answers.contains(6); });
}

}  // namespace
}  // namespace bulkhead::daemon
