// Exactness between processes: what always fits is never refused, and nothing passes the limit. That the rival
// fails here is shown step by step in single_step_test.cc (by chance it may take it minutes).
#include <functional>

#include "tests/storm/storm.h"

namespace bulkhead::shm {
namespace {

struct Score {
  std::atomic<std::uint32_t> started{0}, done{0}, token{0};
  std::atomic<std::uint64_t> truly_held{0};  // added to after a grant, taken from before a return
  std::atomic<std::uint64_t> refused{0}, overshoot{0}, calls{0};
};

using Charge = std::function<bool(unsigned who, std::uint64_t)>;
using GiveBack = std::function<void(unsigned who, std::uint64_t)>;

void once(Score& s, unsigned who, std::uint64_t n, std::uint64_t limit, const Charge& charge_fn,
          const GiveBack& give_fn, bool always_fits) {
  if (!charge_fn(who, n)) {
    if (always_fits) s.refused.fetch_add(1);
    return;
  }
  if (s.truly_held.fetch_add(n) + n > limit) s.overshoot.fetch_add(1);
  s.truly_held.fetch_sub(n);
  give_fn(who, n);
}

// The n-th of the processors this process may use, so that racers really race.
void pin(unsigned n) {
  cpu_set_t may, one;
  CPU_ZERO(&one);
  if (::sched_getaffinity(0, sizeof may, &may) != 0) return;
  const unsigned count = static_cast<unsigned>(CPU_COUNT(&may));
  n %= count;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &may) && n-- == 0) CPU_SET(cpu, &one);
  }
  ::sched_setaffinity(0, sizeof one, &one);
}

// Four ask 60 of 100, one asks 20: the last always fits beside any of them. `until` bounds its calls.
void small_neighbour(Score& s, std::uint64_t most_calls, const Charge& charge_fn,
                     const GiveBack& give_fn, const std::function<void(unsigned)>& join_fn) {
  pid_t children[5];
  for (unsigned who = 0; who < 5; ++who) {
    children[who] = spawn([&] {
      join_fn(who);
      s.started.fetch_add(1);
      while (s.started.load() < 5) ::usleep(100);
      if (who < 4) {
        pin(who);
        while (s.done.load() == 0) once(s, who, 60, 100, charge_fn, give_fn, false);
        return;
      }
      for (std::uint64_t i = 0; i < most_calls; ++i) {
        once(s, who, 20, 100, charge_fn, give_fn, true);
        s.calls.fetch_add(1);
      }
      s.done.store(1);
    });
  }
  for (const pid_t child : children) EXPECT_EQ(wait_for(child), 0);
}

constexpr std::uint64_t kUnit = 512;

TEST(Exactness, ASmallNeighbourIsNeverRefused) {
  const StormDir dir;
  ASSERT_TRUE(dir.create("t", 100 * kUnit).ok());
  Score* s = shared<Score>();
  Guest me;
  small_neighbour(
      *s, 300'000,
      [&](unsigned, std::uint64_t n) {
        return charge(me.region(), me.member.seat.slot, 0, n * kUnit);
      },
      [&](unsigned, std::uint64_t n) { give_back(me.region(), me.member.seat.slot, 0, n * kUnit); },
      [&](unsigned) {
        if (!me.join_to(dir.get(), "t")) ::_exit(1);
      });
  EXPECT_EQ(s->calls.load(), 300'000u);
  EXPECT_EQ(s->refused.load(), 0u);
  EXPECT_EQ(s->overshoot.load(), 0u);
}

// The moving hole: 40 are always in one of two hands, so 60 always fit; a scan may see both hands full.
TEST(Exactness, TheMovingHoleRefusesNobody) {
  const StormDir dir;
  ASSERT_TRUE(dir.create("t", 100 * kUnit).ok());
  Score* s = shared<Score>();
  pid_t children[3];
  for (unsigned who = 0; who < 3; ++who) {
    children[who] = spawn([&] {
      Guest me;
      if (!me.join_to(dir.get(), "t")) ::_exit(1);
      Region& r = me.region();
      const unsigned slot = me.member.seat.slot;
      s->started.fetch_add(1);
      while (s->started.load() < 3) ::usleep(100);
      pin(who);
      if (who == 2) {
        while (s->token.load() < 300)
          once(
              *s, who, 60, 100,
              [&](unsigned, std::uint64_t n) { return charge(r, slot, 0, n * kUnit); },
              [&](unsigned, std::uint64_t n) { give_back(r, slot, 0, n * kUnit); }, true);
        s->done.store(1);
        return;
      }
      while (s->done.load() == 0) {
        if (s->token.load() % 2 != who) {
          ::sched_yield();
          continue;
        }
        for (int i = 0; i < 50; ++i) {  // several in one hand: the second ones are on the fast path
          if (charge(r, slot, 0, 40 * kUnit)) {
            give_back(r, slot, 0, 40 * kUnit);
          } else {
            s->refused.fetch_add(1);
          }
        }
        s->token.fetch_add(1);
      }
    });
  }
  for (const pid_t child : children) EXPECT_EQ(wait_for(child), 0);
  EXPECT_EQ(s->refused.load(), 0u);
  EXPECT_EQ(s->overshoot.load(), 0u);
}

// Eight processes race for the last bytes: exactly as many succeed as fit.
TEST(Exactness, ExactlyAsManyAsFit) {
  for (int round = 0; round < 20; ++round) {
    const StormDir dir;
    ASSERT_TRUE(dir.create("t", 100 * kUnit).ok());
    Guest watcher;
    ASSERT_TRUE(watcher.join_to(dir.get(), "t"));
    Score* s = shared<Score>();
    pid_t children[8];
    for (pid_t& child : children) {
      child = spawn([&] {
        Guest me;
        if (!me.join_to(dir.get(), "t")) ::_exit(1);
        s->started.fetch_add(1);
        while (s->started.load() < 8) ::usleep(100);
        for (int i = 0; i < 10; ++i) {
          if (charge(me.region(), me.member.seat.slot, 0, 7 * kUnit)) s->calls.fetch_add(1);
        }
        s->done.fetch_add(1);
        while (s->token.load() == 0) ::usleep(100);
      });
    }
    while (s->done.load() < 8) ::usleep(100);
    EXPECT_EQ(s->calls.load(), 14u) << "14 x 7 = 98 of 100";
    EXPECT_EQ(held_bytes(watcher.region(), 0), 98 * kUnit);
    s->token.store(1);
    for (const pid_t child : children) EXPECT_EQ(wait_for(child), 0);
    expect_whole(watcher, 0);
    ::munmap(s, sizeof *s);
  }
}

}  // namespace
}  // namespace bulkhead::shm
