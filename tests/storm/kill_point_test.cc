// Kills a process at every kill point of src/shm, early and late. Whatever it was doing, reaping must leave
// nothing behind and the next process must get everything. Needs the preset `kill`.
#include "base/kill_point.h"

#include <set>
#include <string>

#include "shm/compute.h"
#include "tests/storm/kill_points.h"
#include "tests/storm/storm.h"

namespace bulkhead::shm {
namespace {

#ifdef BH_KILL_POINTS

constexpr std::uint64_t kLimit = 64 * kMiB;

// Everything a process can do to its books, over and over.
void do_everything(const Dir& dir) {
  Guest me;
  Result<Tenant> t = attach_tenant(dir, "t");
  if (!t.ok()) ::_exit(1);
  me.tenant = std::move(*t);
  for (;;) {
    Member neighbour;  // a second seat, whose slack the first one needs
    if (!join(me.tenant, me.member).ok() || !join(me.tenant, neighbour).ok()) ::_exit(2);
    Region& r = me.region();
    const unsigned slot = me.member.seat.slot;
    if (!charge(r, neighbour.seat.slot, 0, 32 * kMiB)) ::_exit(6);
    give_back(r, neighbour.seat.slot, 0, 32 * kMiB);
    if (!charge(r, slot, 0, 4 * kMiB)) ::_exit(3);
    give_back(r, slot, 0, 4 * kMiB);
    if (!charge(r, slot, 0, 4 * kMiB)) ::_exit(4);
    static_cast<void>(charge(r, slot, 0, kLimit));
    if (!charge(r, slot, 0, 40 * kMiB)) ::_exit(5);
    charge_forced(r, slot, 0, 60 * kMiB);
    set_limit(r, 0, kLimit / 2);
    set_limit(r, 0, kLimit);
    set_compute(r, 0, {2500, 2500, 5000, 2000, 1000});
    set_compute(r, 0, {});
    give_back(r, slot, 0, 60 * kMiB);
    give_back(r, slot, 0, 44 * kMiB);
    leave_slot(r, me.member.world, me.member.seat);
    leave_slot(r, neighbour.world, neighbour.seat);
  }
}

void create_and_remove(const Dir& dir) {
  for (;;) {
    TenantSpec s;
    s.name = "made";
    s.owner_uid = ::geteuid();
    s.device_count = 1;
    s.devices[0].uuid[0] = 2;
    s.devices[0].limit_bytes = s.devices[0].total_bytes = kLimit;
    Arithmetic sums;
    if (!create_tenant(dir, s, sums).ok()) ::_exit(1);
    if (!remove_tenant(dir, "made").ok()) ::_exit(2);
  }
}

TEST(Storm, KilledAtEveryPointEarlyAndLate) {
  for (const std::string& point : kill_points()) {
    if (is_share(point)) continue;             // share_kill_test.cc
    if (point.starts_with("node.")) continue;  // daemon_storm_test.cc
    if (point.starts_with("lane.")) continue;  // lane_kill_test.cc
    for (const std::uint64_t nth : {1u, 2u, 100u}) {
      SCOPED_TRACE(testing::Message() << point << " #" << nth);
      const StormDir dir;
      ASSERT_TRUE(dir.create("t", kLimit, 4 * kLimit).ok());
      Guest me;
      ASSERT_TRUE(me.join_to(dir.get(), "t"));
      const bool creates = point.starts_with("create.") || point.starts_with("remove.");
      const int status = wait_for(spawn([&] {
        arm_kill_point(point.c_str(), nth);
        if (creates) {
          create_and_remove(dir.get());
        } else {
          do_everything(dir.get());
        }
      }));
      ASSERT_TRUE(was_killed(status)) << "status " << status;
      set_limit(me.region(), 0, kLimit);  // it may have died as the governor
      expect_whole(me, 0);
      // a half-made tenant is in nobody's way
      EXPECT_TRUE(dir.create("made", kLimit, 4 * kLimit).ok() ||
                  attach_tenant(dir.get(), "made").ok());
    }
  }
}

#else

TEST(Storm, KilledAtEveryPointEarlyAndLate) {
  GTEST_SKIP() << "kill points are compiled in by the preset `kill` only";
}

#endif

TEST(Storm, TheSourceHasItsKillPoints) {
  const std::set<std::string> points = kill_points();
  for (const char* step : {"quota.wished", "quota.turn_taken", "quota.decided", "quota.told",
                           "quota.turn_passed", "quota.moved", "quota.idle", "reap.marked"}) {
    EXPECT_TRUE(points.contains(step)) << step;
  }
  EXPECT_GE(points.size(), 20u);
}

}  // namespace
}  // namespace bulkhead::shm
