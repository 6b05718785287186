// Kills a producer after each instruction of one publication, and at its kill points. Whatever it was doing, what
// the consumer finds is contiguous and whole, and the next thread goes on behind it.
#include "shm/lane.h"
#include "tests/storm/single_step.h"

namespace bulkhead::shm {
namespace {

using abi::AuditEntry;

AuditEntry entry_of(std::uint64_t n) {
  AuditEntry e{};
  e.version_kind = abi::version_kind(abi::EntryKind::kTransfer);
  e.operation = static_cast<std::uint8_t>(abi::AuditOp::k_cuMemcpy);
  e.source = n * 0x0101'0101'0101'0101;
  e.destination = ~e.source;
  e.stream = 0x5a5a;
  return e;
}

// As the hot path stores it.
abi::EntryWords words_of(std::uint64_t n) {
  const AuditEntry e = entry_of(n);
  return {std::uint32_t{e.version_kind} | std::uint32_t{e.operation} << 8,
          e.grant,
          e.utc_ns,
          e.source,
          e.destination,
          0,
          e.stream};
}

struct Shared {
  Lane lane;
  LaneCell cell;
};

// Everything committed from `from` on; false if an entry is not whole.
bool drain(const Lane& lane, std::uint64_t& expected) {
  AuditEntry e{};
  for (;; ++expected) {
    const LaneRead seen = read_slot(lane.slots[expected % kLaneSlots], expected, e);
    if (seen == LaneRead::kNothing) return true;
    AuditEntry whole = entry_of(expected);
    abi::set_sequence(whole, expected);
    if (seen == LaneRead::kFaulty || std::memcmp(&e, &whole, sizeof e) != 0) return false;
  }
}

#if defined(__x86_64__)
// `publish(end, n)`: the entry n, which is the next.
template <class Publish>
void killed_after_each_instruction(const Publish& publish) {
  constexpr long kMostSteps = 5000;
  // in the first round of the ring, and where an old entry is overwritten
  for (const std::uint64_t before : {std::uint64_t{3}, kLaneSlots + 3}) {
    long n = 0, with = 0, without = 0;
    for (;; ++n) {
      SCOPED_TRACE(testing::Message() << before << " entries before, instruction " << n);
      ASSERT_LT(n, kMostSteps);
      auto* s = shared<Shared>();
      format_lane(s->lane, 1, 0);
      std::uint64_t taken = 0;
      LaneEnd end = adopt_lane(s->lane, s->cell);
      for (std::uint64_t i = 0; i < before; ++i) {
        while (!lane_has_room(end, 1)) {
          ASSERT_TRUE(drain(s->lane, taken));
          s->cell.tail.store(taken);
        }
        lane_publish(end, entry_of(i));
      }
      const End how = kill_after(n, [&] {
        mark();
        publish(end, before);
        mark();
      });
      ASSERT_NE(how, End::kBroken);
      ASSERT_TRUE(drain(s->lane, taken));
      ASSERT_TRUE(taken == before || taken == before + 1) << taken;
      (taken == before ? without : with) += 1;
      // the next thread of the process (the storm's stand-in for it) goes on behind what stands
      LaneEnd next = adopt_lane(s->lane, s->cell);
      ASSERT_EQ(next.next, taken);
      lane_publish(next, entry_of(taken));
      ASSERT_TRUE(drain(s->lane, taken));
      ASSERT_EQ(taken, next.next);
      ::munmap(s, sizeof *s);
      if (how == End::kRanThrough) break;
    }
    EXPECT_GT(n, 10);
    EXPECT_GT(with, 0);
    EXPECT_GT(without, 0);
    std::printf("%ld instructions, %ld deaths before the commit\n", n, without);
  }
}

TEST(LaneSingleStep, KilledAfterEachInstructionTheLaneIsContiguous) {
  killed_after_each_instruction(
      [](LaneEnd& end, std::uint64_t n) { lane_publish(end, entry_of(n)); });
}
TEST(LaneSingleStep, LikewiseWhereTheEntryIsStoredByWords) {
  killed_after_each_instruction(
      [](LaneEnd& end, std::uint64_t n) { lane_publish(end, words_of(n)); });
}
#endif

#ifdef BH_KILL_POINTS
TEST(LaneKillPoints, EarlyAndLate) {
  for (const char* point : {"lane.filled", "lane.committed"}) {
    for (const std::uint64_t nth : {std::uint64_t{1}, std::uint64_t{2}, kLaneSlots}) {
      SCOPED_TRACE(testing::Message() << point << " #" << nth);
      auto* s = shared<Shared>();
      format_lane(s->lane, 1, 0);
      const int status = wait_for(spawn([&] {
        arm_kill_point(point, nth);
        LaneEnd end = adopt_lane(s->lane, s->cell);
        for (std::uint64_t i = 0;; ++i) lane_publish(end, entry_of(i));
      }));
      ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
      std::uint64_t taken = 0;
      ASSERT_TRUE(drain(s->lane, taken));
      EXPECT_EQ(taken, std::string{point} == "lane.filled" ? nth - 1 : nth);
      ::munmap(s, sizeof *s);
    }
  }
}
#endif

}  // namespace
}  // namespace bulkhead::shm
