#include "shm/slots.h"

#include <gtest/gtest.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "shm/test_region.h"
#include "shm/witness.h"

namespace bulkhead::shm {
namespace {

Seat sit(TestRegion& r, FakeProcess& p) {
  Result<Seat> seat = claim_slot(*r, p.world(), p.id);
  EXPECT_TRUE(seat.ok()) << seat.status().text();
  return seat.ok() ? *seat : Seat{};
}

TEST(Slots, ClaimAndLeave) {
  TestRegion r{100};
  FakeNode node;
  FakeProcess a{node, 1, 10, 100}, b{node, 1, 11, 101};
  const Seat sa = sit(r, a), sb = sit(r, b);
  EXPECT_EQ(sa.slot, 0u);
  EXPECT_EQ(sb.slot, 1u);
  EXPECT_TRUE(still_mine(*r, sa));
  EXPECT_EQ(count_live(*r, b.world()), 2u);
  ASSERT_TRUE(take(*r, sa.slot, 60));
  leave_slot(*r, a.world(), sa);
  EXPECT_FALSE(still_mine(*r, sa));
  EXPECT_EQ(held(*r), 0u);
  EXPECT_EQ(node.locks.count(sa.slot), 0u);
  FakeProcess c{node, 1, 12, 102};
  const Seat sc = sit(r, c);
  EXPECT_EQ(sc.slot, sa.slot);
  EXPECT_NE(sc.gen, sa.gen);
}

TEST(Slots, TheDeadAreReapedAndTheLivingAreNot) {
  TestRegion r{100};
  FakeNode node;
  FakeProcess a{node, 1, 10, 100}, b{node, 1, 11, 101};
  const Seat sa = sit(r, a), sb = sit(r, b);
  ASSERT_TRUE(take(*r, sa.slot, 60));
  EXPECT_EQ(reap_dead(*r, b.world(), sb), 0u);
  a.die();
  EXPECT_EQ(reap_dead(*r, b.world(), sb), 1u);
  EXPECT_EQ(held(*r), 0u);
  EXPECT_FALSE(still_mine(*r, sa));
}

// The pid is in use again, by another process: the start time tells.
TEST(Slots, AReusedPidIsADeath) {
  TestRegion r{100};
  FakeNode node;
  FakeProcess a{node, 1, 10, 100}, b{node, 1, 11, 101};
  sit(r, a);
  const Seat sb = sit(r, b);
  a.die();
  FakeProcess reuse{node, 1, 10, 555};
  EXPECT_EQ(reap_dead(*r, b.world(), sb), 1u);
}

// Two containers, equal pids and even equal start times. One cannot see the other's processes.
TEST(Slots, EqualPidsInTwoNamespaces) {
  TestRegion r{100};
  FakeNode node;
  FakeProcess a{node, 1, 7, 70}, b{node, 2, 7, 70};
  const Seat sa = sit(r, a), sb = sit(r, b);
  EXPECT_NE(sa.slot, sb.slot);
  ASSERT_TRUE(take(*r, sa.slot, 10));
  EXPECT_EQ(reap_dead(*r, b.world(), sb), 0u);
  a.die();
  EXPECT_EQ(reap_dead(*r, b.world(), sb), 0u) << "a young heartbeat and another namespace: wait";
  node.now_s += kHeartbeatStale_s + 1;
  beat(*r, b.world(), sb);
  EXPECT_EQ(reap_dead(*r, b.world(), sb), 1u);
  EXPECT_TRUE(still_mine(*r, sb));
}

// Stopped for 30 s: the heartbeat is old, the kernel still keeps the lock.
TEST(Slots, AStoppedProcessIsAlive) {
  TestRegion r{100};
  FakeNode node;
  FakeProcess a{node, 1, 10, 100}, b{node, 1, 11, 101}, c{node, 2, 12, 102};
  const Seat sa = sit(r, a), sb = sit(r, b), sc = sit(r, c);
  node.now_s += 30;
  beat(*r, b.world(), sb);
  beat(*r, c.world(), sc);
  EXPECT_EQ(reap_dead(*r, b.world(), sb), 0u);
  EXPECT_EQ(reap_dead(*r, c.world(), sc), 0u);
  EXPECT_TRUE(still_mine(*r, sa));
}

// closefrom(3) drops the lock; the pid still stands for the process. Its next heartbeat locks
// again.
TEST(Slots, CloseFromDropsTheLockAndIsNoDeath) {
  TestRegion r{100};
  FakeNode node;
  FakeProcess a{node, 1, 10, 100}, b{node, 1, 11, 101};
  const Seat sa = sit(r, a), sb = sit(r, b);
  a.drop_all_locks();
  EXPECT_EQ(reap_dead(*r, b.world(), sb), 0u);
  beat(*r, a.world(), sa);
  EXPECT_EQ(node.locks.count(sa.slot), 1u);
}

// Fork, and the parent is killed: the child shares memory but neither pid nor lock.
TEST(Slots, AForkedChildDoesNotKeepItsParentsSlot) {
  TestRegion r{100};
  FakeNode node;
  FakeProcess parent{node, 1, 10, 100}, child{node, 1, 11, 101};
  child.id.image = parent.id.image;  // AT_RANDOM is inherited by fork
  const Seat sp = sit(r, parent);
  ASSERT_TRUE(take(*r, sp.slot, 50));
  const Seat sc = sit(r, child);
  EXPECT_TRUE(still_mine(*r, sp)) << "joining must not reap a living parent";
  parent.die();
  EXPECT_EQ(reap_dead(*r, child.world(), sc), 1u);
  EXPECT_TRUE(take(*r, sc.slot, 100));
}

// exec keeps pid and start time; the image differs. What the old image held went with its contexts.
TEST(Slots, ExecLeavesNothingBehind) {
  TestRegion r{100};
  FakeNode node;
  FakeProcess before{node, 1, 10, 100};
  const Seat sb = sit(r, before);
  ASSERT_TRUE(take(*r, sb.slot, 50));
  before.drop_all_locks();  // close-on-exec
  FakeProcess after = before;
  after.id.image ^= 1;
  const Seat sa = sit(r, after);
  EXPECT_FALSE(still_mine(*r, sb));
  EXPECT_EQ(held(*r), 0u);
  EXPECT_TRUE(still_mine(*r, sa));
}

// vfork + exec: the child is another process; its parent's slot is none of its business.
TEST(Slots, VforkAndExecTouchNotTheParent) {
  TestRegion r{100};
  FakeNode node;
  FakeProcess parent{node, 1, 10, 100};
  const Seat sp = sit(r, parent);
  FakeProcess child{node, 1, 11, 101};
  sit(r, child);
  EXPECT_TRUE(still_mine(*r, sp));
}

TEST(Slots, AClaimerThatDiedIsReapedByItsFreeLockAlone) {
  TestRegion r{100};
  FakeNode node;
  FakeProcess a{node, 1, 10, 100}, b{node, 1, 11, 101};
  const Seat sb = sit(r, b);
  r->slots[1].state.store(make_s(kClaiming, 1));
  r->header.slots_high.store(2);
  node.locks[1] = a.key();
  EXPECT_EQ(reap_dead(*r, b.world(), sb), 0u);
  a.die();
  EXPECT_EQ(reap_dead(*r, b.world(), sb), 1u);
}

// A reaper that is slow is waited for; one that is dead is replaced.
TEST(Slots, AReaperIsReplacedOnlyWhenDead) {
  TestRegion r{100};
  FakeNode node;
  FakeProcess dead{node, 1, 10, 100}, reaper{node, 1, 11, 101}, third{node, 1, 12, 102};
  const Seat sd = sit(r, dead), sr = sit(r, reaper), st = sit(r, third);
  ASSERT_TRUE(take(*r, sd.slot, 50));
  dead.die();
  r->slots[sd.slot].state.store(make_s(kReaping, sd.gen, sr.slot, sr.gen));
  node.now_s += 1000;  // however long it takes
  EXPECT_EQ(reap_dead(*r, third.world(), st), 0u);
  EXPECT_EQ(held(*r), 50u);
  reaper.die();
  EXPECT_EQ(reap_dead(*r, third.world(), st), 2u);
  EXPECT_EQ(held(*r), 0u);
}

TEST(Slots, AFullTableOfTheDeadIsReapedByAGuest) {
  TestRegion r{100};
  FakeNode node;
  std::vector<std::unique_ptr<FakeProcess>> all;
  for (unsigned i = 0; i < kMaxSlots; ++i) {
    all.push_back(std::make_unique<FakeProcess>(node, 1, 1000 + i, 7));
    sit(r, *all.back());
  }
  FakeProcess newcomer{node, 1, 5000, 9};
  EXPECT_EQ(claim_slot(*r, newcomer.world(), newcomer.id).status().code(), Errc::kFull);
  all[17]->die();
  EXPECT_EQ(sit(r, newcomer).slot, 17u);
  EXPECT_EQ(node.locks.count(kGuestByte), 0u);
}

TEST(Slots, ARefusalAsksForTheDeadFirst) {
  TestRegion r{100};
  FakeNode node;
  FakeProcess a{node, 1, 10, 100}, b{node, 1, 11, 101};
  const Seat sa = sit(r, a);
  Member m;
  m.region = r.get();
  m.world = b.world();
  m.seat = sit(r, b);
  ASSERT_TRUE(take(*r, sa.slot, 100));
  EXPECT_FALSE(charge_or_reap(m, 0, 10 * kTestUnit));
  a.die();
  ASSERT_TRUE(take(*r, sa.slot, 0));
  m.asked[0].tick.store(0);  // the coarse clock's next tick, without waiting for it
  EXPECT_TRUE(charge_or_reap(m, 0, 100 * kTestUnit));
}

TEST(Slots, AWitnessedEndIsAskedForAtOnce) {
  TestRegion r{100};
  FakeNode node;
  FakeProcess a{node, 1, 10, 100}, b{node, 1, 11, 101};
  const Seat sa = sit(r, a);
  Member m;
  m.region = r.get();
  m.world = b.world();
  m.seat = sit(r, b);
  ASSERT_TRUE(take(*r, sa.slot, 100));
  r->slots[sa.slot].witness.store(77);
  m.asked[0].tick.store(clock_ns(CLOCK_MONOTONIC_COARSE));
  EXPECT_FALSE(charge_or_reap(m, 0, 10 * kTestUnit));
  r->slots[sa.slot].witness.store(FUTEX_OWNER_DIED);
  EXPECT_FALSE(charge_or_reap(m, 0, 10 * kTestUnit)) << "marked, but not dead by the rule";
  a.die();
  EXPECT_TRUE(charge_or_reap(m, 0, 100 * kTestUnit)) << "in the same tick as the last refusal";
  EXPECT_EQ(r->slots[sit(r, b).slot].witness.load(), 0u) << "a new owner has its own";
}

// The kernel's part: a real thread stands, its process is killed, the word is marked.
TEST(Slots, TheKernelMarksTheWitness) {
  TestRegion r{100};
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    std::thread{[&] {
      Witness first;
      first.stand(*r, 3);
      first.stand(*r, 5);  // a lost slot is left as it is
      const char one = 1;
      if (::write(ready[1], &one, 1) != 1) ::_exit(1);
      for (;;) ::pause();
    }}.join();
  }
  char one = 0;
  ASSERT_EQ(::read(ready[0], &one, 1), 1);
  const std::uint32_t tid = r->slots[5].witness.load();
  EXPECT_NE(tid, 0u);
  EXPECT_EQ(r->slots[3].witness.load(), tid);
  ::kill(child, SIGKILL);
  siginfo_t info;
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(r->slots[5].witness.load(), static_cast<std::uint32_t>(FUTEX_OWNER_DIED));
  EXPECT_EQ(r->slots[3].witness.load(), tid);
  ::waitpid(child, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST(Slots, NonsenseInStateBelongsToNobody) {
  TestRegion r{100};
  FakeNode node;
  FakeProcess b{node, 1, 11, 101};
  const Seat sb = sit(r, b);
  r->header.slots_high.store(4);
  r->slots[2].state.store(0xffff'ffff'ffff'ffff);
  r->slots[3].state.store(make_s(kReaping, 1, 4000, 3));
  EXPECT_EQ(reap_dead(*r, b.world(), sb), 2u);
}

// A slot whose owner was seen to end: its lock and its entry in /proc need not be gone yet.
TEST(ReapSlot, TakesOneSlotOfOneGeneration) {
  TestRegion r{100};
  FakeNode node;
  FakeProcess a{node, 1, 10, 100}, b{node, 1, 11, 101}, daemon{node, 1, 12, 102};
  const Seat seat_a = *claim_slot(*r, a.world(), a.id);
  const Seat seat_b = *claim_slot(*r, b.world(), b.id);
  ASSERT_TRUE(take(*r, seat_a.slot, 30));
  ASSERT_TRUE(take(*r, seat_b.slot, 20));
  const World w = daemon.world();
  EXPECT_EQ(reap_slot(*r, w, seat_a.slot, seat_a.gen + 1), Reaped::kGone);
  EXPECT_EQ(reap_slot(*r, w, kMaxSlots, 1), Reaped::kGone);
  EXPECT_EQ(held(*r), 50u);
  EXPECT_EQ(reap_slot(*r, w, seat_a.slot, seat_a.gen), Reaped::kFreed);
  EXPECT_EQ(held(*r), 20u);
  EXPECT_EQ(reap_slot(*r, w, seat_a.slot, seat_a.gen), Reaped::kGone);
  EXPECT_TRUE(still_mine(*r, seat_b));
  EXPECT_TRUE(node.locks.find(kGuestByte) == node.locks.end());
}

TEST(ReapSlot, WaitsForNobody) {
  TestRegion r{100};
  FakeNode node;
  FakeProcess a{node, 1, 10, 100}, other{node, 1, 11, 101}, daemon{node, 1, 12, 102};
  const Seat seat = *claim_slot(*r, a.world(), a.id);
  ASSERT_TRUE(take(*r, seat.slot, 30));
  ASSERT_TRUE(other.world().take_lock(other.world().self, kGuestByte));  // another guest reaps
  EXPECT_EQ(reap_slot(*r, daemon.world(), seat.slot, seat.gen), Reaped::kBusy);
  other.die();
  r->slots[seat.slot].state.store(make_s(kReaping, seat.gen, kGuest));  // it died over the slot
  EXPECT_EQ(reap_slot(*r, daemon.world(), seat.slot, seat.gen), Reaped::kBusy);
  a.die();
  EXPECT_EQ(reap_dead(*r, daemon.world(), Seat{}), 1u);  // finishes it
  EXPECT_EQ(held(*r), 0u);
}

}  // namespace
}  // namespace bulkhead::shm
