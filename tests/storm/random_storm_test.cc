// Random deaths: processes charge and free at random, one after the other is killed or stopped at a random
// moment. BH_STORM_SECONDS says how long (default 3), BH_STORM_SEED repeats a run's choices.
#include <random>
#include <vector>

#include "base/clock.h"
#include "tests/storm/storm.h"

namespace bulkhead::shm {
namespace {

constexpr std::uint64_t kLimit = 64 * kMiB;
constexpr unsigned kWorkers = 6;

void work(const Dir& dir, std::uint64_t seed) {
  std::mt19937_64 random{seed};
  Guest me;
  if (!me.join_to(dir, "t")) ::_exit(1);
  std::vector<std::uint64_t> mine;
  for (;;) {
    const std::uint64_t n = (1 + random() % 24) * kMiB / 2;
    if (random() % 2 == 0 || mine.empty()) {
      if (charge_or_reap(me.member, 0, n)) mine.push_back(n);
    } else {
      give_back(me.region(), me.member.seat.slot, 0, mine.back());
      mine.pop_back();
    }
    if (random() % 5000 == 0) {
      leave_slot(me.region(), me.member.world, me.member.seat);
      mine.clear();
      if (!join(me.tenant, me.member).ok()) ::_exit(2);
    }
  }
}

TEST(Storm, RandomDeathsLoseNothing) {
  const char* chosen = std::getenv("BH_STORM_SEED");
  const std::uint64_t seed =
      chosen != nullptr ? std::strtoull(chosen, nullptr, 10) : std::random_device{}();
  std::printf("BH_STORM_SEED=%llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random{seed};
  const StormDir dir;
  ASSERT_TRUE(dir.create("t", kLimit).ok());
  Guest me;
  ASSERT_TRUE(me.join_to(dir.get(), "t"));
  Region& r = me.region();
  std::vector<pid_t> workers(kWorkers);
  const auto start = [&](pid_t& worker) {
    worker = spawn([&, s = random()] { work(dir.get(), s); });
  };
  for (pid_t& worker : workers) start(worker);
  const std::uint64_t end_ns = monotonic_ns() + storm_seconds(3) * 1'000'000'000ull;
  unsigned deaths = 0, stops = 0;
  while (monotonic_ns() < end_ns && !HasFailure()) {
    ::usleep(static_cast<useconds_t>(random() % 3000));
    pid_t& victim = workers[random() % kWorkers];
    if (random() % 8 != 0) {
      ::kill(victim, SIGKILL);
      const int status = wait_for(victim);
      ASSERT_TRUE(was_killed(status)) << "a worker ended by itself, status " << status;
      ++deaths;
      start(victim);
      continue;
    }
    // everybody stopped anywhere: the books stand still and are within the limit, a charge ends
    for (const pid_t worker : workers) {
      ::kill(worker, SIGSTOP);
      int status = 0;
      ASSERT_EQ(::waitpid(worker, &status, WUNTRACED), worker);
      ASSERT_TRUE(WIFSTOPPED(status));
    }
    ASSERT_LE(held_bytes(r, 0), kLimit);
    if (charge(r, me.member.seat.slot, 0, kMiB)) {
      ASSERT_LE(held_bytes(r, 0), kLimit);
      give_back(r, me.member.seat.slot, 0, kMiB);
    } else {
      // a stopped wish may have been granted on the way: that counts, too
      ASSERT_GT(held_bytes(r, 0) + kMiB, kLimit);
    }
    ++stops;
    for (const pid_t worker : workers) ::kill(worker, SIGCONT);
  }
  for (const pid_t worker : workers) {
    ::kill(worker, SIGKILL);
    wait_for(worker);
  }
  expect_whole(me, 0);
  for (unsigned j = 0; j < kMaxSlots; ++j) ASSERT_EQ(r.slots[j].faults.load(), 0u) << j;
  std::printf("%u deaths, %u stops of all\n", deaths, stops);
  EXPECT_GT(deaths, 0u);
}

}  // namespace
}  // namespace bulkhead::shm
