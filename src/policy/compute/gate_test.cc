// The gate's arithmetic: what a flag may bring about at most, whatever stands in it.
#include "policy/compute/gate.h"

#include <gtest/gtest.h>

#include <random>

namespace bulkhead::policy::compute {
namespace {

constexpr std::uint64_t kMs = 1'000'000, kNow = 1'000'000 * kMs;

// A launch that is held by this word, as the library does it; `believes` tells whether the bucket of holds lets it.
template <class Word, class Believes>
std::uint64_t held_ns(Word word, std::uint64_t now, Believes believes) {
  std::uint64_t held = 0;
  while (believes(now + held)) {
    const std::uint64_t left = hold_left_ns(word(now + held), now + held, held);
    if (left == 0) break;
    held += left;
  }
  return held;
}

TEST(Gate, AFlagIsUpUntilItsTimeAndNeverForLongerThanTwentyMilliseconds) {
  EXPECT_FALSE(flag_up(0, kNow));
  EXPECT_FALSE(flag_up(kNow, kNow));
  EXPECT_TRUE(flag_up(kNow + 1, kNow));
  EXPECT_TRUE(flag_up(kNow + 20 * kMs, kNow));
  EXPECT_FALSE(flag_up(kNow + 20 * kMs + 1, kNow)) << "no time at all";
  EXPECT_FALSE(flag_up(~std::uint64_t{0}, kNow));
}

TEST(Gate, ALaunchIsHeldToTheFlagsEndAndAtMostTwentyMilliseconds) {
  const auto always = [](std::uint64_t) { return true; };
  EXPECT_EQ(held_ns([](std::uint64_t) { return kNow + 3 * kMs; }, kNow, always), 3 * kMs);
  EXPECT_EQ(held_ns([](std::uint64_t now) { return now + 5 * kMs; }, kNow, always), kHoldMost_ns)
      << "one that is raised for ever";
}

// Claim of gate.h. `bounded` false is the broken variant: holds that nobody counts.
std::uint64_t all_held_ns(bool bounded, std::uint64_t span_ns) {
  const Rules rules = make_rules(2'500, kHoldBurst_ns);
  Bucket holds{0};
  std::uint64_t now = kNow, sum = 0;
  while (now < kNow + span_ns) {
    const auto believes = [&](std::uint64_t at) {
      return !bounded || wait_ns(holds.load(), at, rules) == 0;
    };
    const std::uint64_t held =
        held_ns([](std::uint64_t at) { return at + 5 * kMs; }, now, believes);
    charge(holds, now, held, rules);
    now += held + 10'000;
    sum += held;
  }
  return sum;
}
TEST(Gate, AllHoldsOfOneTenantStayWithinItsShareAndTheBurst) {
  const std::uint64_t span = 20'000 * kMs, most = span / 4 + kHoldBurst_ns + kHoldMost_ns;
  EXPECT_LE(all_held_ns(true, span), most);
  EXPECT_GE(all_held_ns(true, span), span / 4 - kHoldMost_ns);
  EXPECT_GT(all_held_ns(false, span), most) << "the broken variant is caught";
}

TEST(Gate, TheWindowIsSmallBesideAFlagAndGrowsWhenNoneIsUp) {
  EXPECT_EQ(window_beside_ns(kNow + kMs, kNow), kLeastWindow_ns);
  EXPECT_EQ(window_beside_ns(kNow - 49 * kMs, kNow), kLeastWindow_ns);
  EXPECT_EQ(window_beside_ns(kNow - 50 * kMs, kNow), 2 * kLeastWindow_ns);
  EXPECT_EQ(window_beside_ns(kNow - 250 * kMs, kNow), 32 * kLeastWindow_ns);
  EXPECT_EQ(window_beside_ns(kNow - 300 * kMs, kNow), kMostWindow_ns);
  EXPECT_EQ(window_beside_ns(0, kNow), kMostWindow_ns);
  EXPECT_EQ(window_beside_ns(~std::uint64_t{0}, kNow), kMostWindow_ns) << "no time at all";
}

TEST(Gate, TheFlagLingersForTwiceTheLongestRequestLately) {
  EXPECT_EQ(linger_ns(0), kLeastLinger_ns);
  EXPECT_EQ(linger_ns(3 * kMs), 6 * kMs);
  EXPECT_EQ(linger_ns(kMostLinger_ns), kMostLinger_ns);
  EXPECT_EQ(linger_ns(~std::uint64_t{0}), kMostLinger_ns);
  std::uint64_t longest = longest_lately_ns(0, 8 * kMs);
  EXPECT_EQ(longest, 8 * kMs);
  for (int i = 0; i < 200; ++i) longest = longest_lately_ns(longest, kMs);
  EXPECT_NEAR(static_cast<double>(longest), 1e6, 100);
}

// Requests of 0.1 ms, one each 2 ms, beside operations of 5 ms one after the other: the part (%) of those that meet an operation.
// A request that does waits for its slice. `bridged` false is the broken variant: the flag falls when a request is over.
double met_percent(bool bridged) {
  constexpr std::uint64_t kTick = 10'000, kEvery = 2 * kMs, kSpan = 20'000 * kMs;
  const Rules rules = make_rules(kHoldShare_x100, kHoldBurst_ns);
  Bucket holds{0};
  FlagWord flag{0};
  std::uint64_t due = kNow, op_until = 0, over = 0, idle = 0, gap = 0, requests = 0, met = 0;
  for (std::uint64_t now = kNow; now < kNow + kSpan; now += kTick) {
    if (over != 0 && now >= over) {
      lower_flag(flag, now + (bridged ? bridge_ns(gap) : 0));
      idle = now, over = 0;
    }
    if (over == 0 && now >= due) {
      if (idle != 0) gap = gap_lately_ns(gap, now - idle);
      raise_flag(flag, now, now + 20 * kMs);
      due = now + kEvery;
      ++requests;
      met += op_until > now ? 1 : 0;
      over = now + (op_until > now ? kMs + kSwitch_ns : 0) + 100'000;
    }
    if (op_until > now) continue;
    if (flag_up(flag.load(), now) && wait_ns(holds.load(), now, rules) == 0) {
      charge(holds, now, kTick, rules);
    } else {
      op_until = now + 5 * kMs;
    }
  }
  return 100.0 * static_cast<double>(met) / static_cast<double>(requests);
}
TEST(Gate, AFlagThatBridgesShortGapsKeepsLongOperationsOutOfThem) {
  EXPECT_GT(met_percent(false), 95) << "the broken variant is caught";
  EXPECT_LT(met_percent(true), 60);
}
TEST(Gate, OnlyShortGapsAreBridged) {
  EXPECT_EQ(bridge_ns(0), 0) << "nothing is known";
  EXPECT_EQ(gap_lately_ns(0, 2 * kMs), 2 * kMs);
  EXPECT_EQ(bridge_ns(2 * kMs), 2 * kMs + kMs / 2);
  EXPECT_EQ(gap_lately_ns(2 * kMs, kMostBridge_ns + 1), 0) << "a long one begins anew";
  EXPECT_LE(bridge_ns(kMostBridge_ns), kFlagMost_ns);
  EXPECT_EQ(bridge_ns(~std::uint64_t{0}), 0);
}

TEST(Gate, RaisingNeverShortensAFlagButReplacesRubbish) {
  FlagWord word{0};
  raise_flag(word, kNow, kNow + 5 * kMs);
  raise_flag(word, kNow, kNow + 2 * kMs);
  EXPECT_EQ(word.load(), kNow + 5 * kMs);
  word.store(~std::uint64_t{0});
  raise_flag(word, kNow, kNow + kMs);
  EXPECT_EQ(word.load(), kNow + kMs);
  lower_flag(word, kNow);
  EXPECT_FALSE(flag_up(word.load(), kNow));
  EXPECT_EQ(window_beside_ns(word.load(), kNow + kMs), kLeastWindow_ns) << "it was up just now";
}

TEST(Gate, RandomWordsHoldNobodyLongerThanSaid) {
  std::mt19937_64 random{7};
  for (int i = 0; i < 10'000; ++i) {
    const std::uint64_t word = random() >> (random() % 64);
    const auto always = [](std::uint64_t) { return true; };
    ASSERT_LE(held_ns([word](std::uint64_t) { return word; }, kNow, always), kHoldMost_ns);
    ASSERT_LE(window_beside_ns(word, kNow), kMostWindow_ns);
    ASSERT_GE(window_beside_ns(word, kNow), kLeastWindow_ns);
  }
}

}  // namespace
}  // namespace bulkhead::policy::compute
