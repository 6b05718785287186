// The bucket's arithmetic, by itself: admission, charges, settlement, the clamp, a change of rate.
#include "policy/compute/bucket.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace bulkhead::policy::compute {
namespace {

constexpr std::uint64_t kMs = 1'000'000;
constexpr std::uint64_t kNow = 1'000'000 * kMs;

TEST(Bucket, AFullOneAdmitsItsBurstAndThenTellsTheExactWait) {
  const Rules rules = make_rules(2'500, 5 * kMs);
  Bucket tat{0};
  std::uint64_t admitted_ns = 0;
  while (wait_ns(tat.load(), kNow, rules) == 0) {
    EXPECT_EQ(charge(tat, kNow, kMs, rules), 0u);
    admitted_ns += kMs;
  }
  EXPECT_EQ(admitted_ns, 6 * kMs);  // the burst, and the one that went below zero
  const std::uint64_t wait = wait_ns(tat.load(), kNow, rules);
  EXPECT_EQ(wait, 4 * kMs);
  EXPECT_NE(wait_ns(tat.load(), kNow + wait - 1, rules), 0u);
  EXPECT_EQ(wait_ns(tat.load(), kNow + wait, rules), 0u);
}

TEST(Bucket, NeverAdmitsMoreThanRateAndBurstOverAnyTime) {
  for (const std::uint32_t rate : {1u, 7u, 100u, 333u, 2'500u, 7'777u, 9'999u, 10'000u}) {
    const Rules rules = make_rules(rate, 3 * kMs);
    Bucket tat{0};
    std::uint64_t now = kNow, used = 0;
    for (int i = 0; i < 20'000; ++i) {
      now += wait_ns(tat.load(), now, rules);
      EXPECT_EQ(charge(tat, now, 50'000, rules), 0u);
      used += 50'000;
    }
    // A charge is rounded to the nanosecond, which is at most 1e-5 of the least wait here.
    const double allowed = static_cast<double>(now - kNow) * rate / 10'000.0 + 3e6 + 50'000;
    EXPECT_LE(static_cast<double>(used), allowed * (1 + 2e-5)) << rate;
    EXPECT_GE(static_cast<double>(used), (allowed - 100'000) * (1 - 2e-5)) << rate;
  }
}

TEST(Bucket, NothingIsHoardedWhileIdle) {
  const Rules rules = make_rules(5'000, 2 * kMs);
  Bucket tat{kNow};
  const std::uint64_t later = kNow + 3'600'000 * kMs;
  EXPECT_EQ(tokens_ns(tat.load(), later, rules), static_cast<std::int64_t>(2 * kMs));
  charge(tat, later, 2 * kMs, rules);
  EXPECT_EQ(tat.load(), later + 4 * kMs);
}

TEST(Bucket, SettlingTakesAndGivesTheDifference) {
  const Rules rules = make_rules(2'500, 5 * kMs);
  Bucket tat{0};
  charge(tat, kNow, 8 * kMs, rules);
  EXPECT_EQ(settle(tat, kNow, -3'000'000, rules), 0u);
  EXPECT_EQ(tat.load(), kNow + 20 * kMs);
  EXPECT_EQ(settle(tat, kNow, 1'000'000, rules), 0u);
  EXPECT_EQ(tat.load(), kNow + 24 * kMs);
  settle(tat, kNow, -1'000'000'000, rules);
  EXPECT_EQ(tat.load(), kNow);  // a full bucket, no more
  EXPECT_EQ(settle(tat, kNow, 0, rules), 0u);
  refund(tat, kNow + kMs, kMs, rules);
  EXPECT_EQ(tat.load(), kNow);
}

TEST(Bucket, DebtIsBoundedAndWhatIsForgivenIsTold) {
  const Rules rules = make_rules(2'500, 5 * kMs);
  Bucket tat{0};
  // 10 s at a quarter are 40 s; the burst's 20 ms and a second of debt are kept.
  EXPECT_EQ(charge(tat, kNow, 10'000 * kMs, rules), (10'000 - 5 - 250) * kMs);
  EXPECT_EQ(wait_ns(tat.load(), kNow, rules), kMaxDebt_ns);
  EXPECT_EQ(settle(tat, kNow, 1'000'000, rules), 1'000'000u);
  // A small rate with a large burst: the clamp lies beyond the burst, so the limit goes on working.
  const Rules slow = make_rules(100, 20 * kMs);
  Bucket other{0};
  charge(other, kNow, 25 * kMs, slow);
  EXPECT_EQ(wait_ns(other.load(), kNow, slow), 500 * kMs);
}

TEST(Bucket, ANewRateKeepsTheDebtInGpuTime) {
  const Rules old_rules = make_rules(1'000, 5 * kMs), new_rules = make_rules(6'000, 5 * kMs);
  Bucket tat{0};
  charge(tat, kNow, 30 * kMs, old_rules);
  EXPECT_EQ(tokens_ns(tat.load(), kNow, old_rules), -25'000'000);
  EXPECT_EQ(rescale(tat, kNow, old_rules, new_rules, false), 0u);
  EXPECT_EQ(tokens_ns(tat.load(), kNow, new_rules), -25'000'000);
  EXPECT_EQ(rescale(tat, kNow, new_rules, make_rules(100, 5 * kMs), false),
            15 * kMs);  // 2.5 s, 1 kept
  Bucket idle{kNow - 5};
  rescale(idle, kNow, old_rules, new_rules, true);
  EXPECT_EQ(idle.load(), kNow - 5);
  // Back from what was lent: no tokens, but no debt either.
  rescale(idle, kNow, new_rules, old_rules, true);
  EXPECT_EQ(tokens_ns(idle.load(), kNow, old_rules), 0);
}

TEST(Bucket, ExtremesDoNotWrap) {
  const Rules least = make_rules(0, ~0ull);
  EXPECT_EQ(least.rate_x100, 1u);
  Bucket tat{0};
  charge(tat, kNow, ~0ull, least);
  EXPECT_LE(tat.load(), kNow + least.most_wait_ns);
  Bucket scribbled{~0ull};
  EXPECT_EQ(wait_ns(scribbled.load(), kNow, make_rules(5'000, kMs)), kMaxDebt_ns);
  EXPECT_NE(charge(scribbled, kNow, kMs, make_rules(5'000, kMs)), 0u);
  EXPECT_LE(scribbled.load(), kNow + make_rules(5'000, kMs).most_wait_ns);
  EXPECT_EQ(make_rules(20'000, 0).rate_x100, kWhole_x100);
}

// The short form is charge() where that admits and forgives nothing, to the nanosecond; else it does nothing.
TEST(Bucket, TheShortChargeIsTheSame) {
  for (const std::uint32_t rate : {1u, 333u, 2'500u, 9'999u, 10'000u}) {
    const Rules rules = make_rules(rate, 5 * kMs);
    for (const bool free : {false, true}) {
      for (const std::uint64_t ahead :
           {std::uint64_t{0}, 2 * kMs, rules.burst_wait_ns, rules.burst_wait_ns + 1,
            rules.most_wait_ns - 1, rules.most_wait_ns, rules.most_wait_ns + 7}) {
        for (const std::uint64_t cost : {std::uint64_t{1}, std::uint64_t{4'999}, kShortCost_ns}) {
          for (const std::uint64_t was : {kNow + ahead, kNow - ahead}) {
            Bucket fast{was}, slow{was};
            const bool admitted = free || wait_ns(was, kNow, rules) == 0;
            const bool whole = charge(slow, kNow, cost, rules) == 0 &&
                               (was <= kNow || was - kNow <= rules.most_wait_ns);
            const bool went = charge_admitted(fast, kNow, cost, rules, [free] { return free; });
            if (went) {
              EXPECT_TRUE(admitted && whole);
              EXPECT_EQ(fast.load(), slow.load());
            } else {
              EXPECT_EQ(fast.load(), was);
              EXPECT_TRUE(!admitted || slow.load() == kNow + rules.most_wait_ns);
            }
          }
        }
      }
    }
  }
  Bucket tat{kNow};
  EXPECT_FALSE(charge_admitted(tat, kNow, kShortCost_ns + 1, make_rules(5'000, 5 * kMs),
                               [] { return true; }));
}

TEST(Bucket, RacingThreadsLoseNoCharge) {
  const Rules rules = make_rules(5'000, 5 * kMs);
  Bucket tat{kNow};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 20'000; ++i) {
        if (i % 2 == 0 || !charge_admitted(tat, kNow, 1'000, rules, [] { return true; }))
          charge(tat, kNow, 1'000, rules);
        settle(tat, kNow, 200, rules);
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(tat.load(), kNow + 4 * 20'000 * 1'200 * 2);
}

}  // namespace
}  // namespace bulkhead::policy::compute
