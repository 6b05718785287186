#include "shm/lane.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace bulkhead::shm {
namespace {

using abi::AuditEntry;
using abi::EntryKind;

AuditEntry transfer(std::uint64_t source) {
  AuditEntry e{};
  e.version_kind = abi::version_kind(EntryKind::kTransfer);
  e.operation = static_cast<std::uint8_t>(abi::AuditOp::k_cuMemcpy);
  e.source = source;
  return e;
}

class LaneTest : public testing::Test {
 protected:
  LaneTest() {
    void* at =
        ::mmap(nullptr, sizeof(Lane), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    lane_ = static_cast<Lane*>(at);
    format_lane(*lane_, 7, 3);
    end_ = adopt_lane(*lane_, cell_);
  }
  ~LaneTest() override { ::munmap(lane_, sizeof(Lane)); }
  LaneSlot& slot(std::uint64_t sequence) { return lane_->slots[sequence % kLaneSlots]; }
  LaneRead take(AuditEntry& out) {
    const LaneRead seen = read_slot(slot(taken_), taken_, out);
    if (seen == LaneRead::kEntry) cell_.tail.store(++taken_, std::memory_order_release);
    return seen;
  }

  Lane* lane_;
  LaneCell cell_{};
  LaneEnd end_;
  std::uint64_t taken_ = 0;
};

TEST_F(LaneTest, WhatIsPublishedIsReadOnceInOrder) {
  AuditEntry e{};
  EXPECT_EQ(take(e), LaneRead::kNothing);
  for (std::uint64_t n = 0; n < 3; ++n) {
    ASSERT_TRUE(lane_has_room(end_, 1));
    EXPECT_EQ(lane_publish(end_, transfer(100 + n)), n);
  }
  for (std::uint64_t n = 0; n < 3; ++n) {
    ASSERT_EQ(take(e), LaneRead::kEntry);
    EXPECT_EQ(abi::sequence_of(e), n);
    EXPECT_EQ(std::uint64_t{e.source}, 100 + n);
    EXPECT_TRUE(well_formed(e, n));
  }
  EXPECT_EQ(take(e), LaneRead::kNothing);
}

TEST_F(LaneTest, AFullLaneHasNoRoomUntilTheTailMoves) {
  for (std::uint64_t n = 0; n < kLaneSlots; ++n) {
    ASSERT_TRUE(lane_has_room(end_, 1)) << n;
    lane_publish(end_, transfer(n));
  }
  EXPECT_FALSE(lane_has_room(end_, 1));
  AuditEntry e{};
  for (int i = 0; i < 2; ++i) ASSERT_EQ(take(e), LaneRead::kEntry);
  EXPECT_TRUE(lane_has_room(end_, 2));
  EXPECT_FALSE(lane_has_room(end_, 3));
  lane_publish(end_, transfer(kLaneSlots));
  for (std::uint64_t n = 2; n <= kLaneSlots; ++n) {
    ASSERT_EQ(take(e), LaneRead::kEntry);
    ASSERT_EQ(std::uint64_t{e.source}, n);
  }
  EXPECT_EQ(take(e), LaneRead::kNothing);  // in the second round the slot holds the first's commit
}

TEST_F(LaneTest, TheNextThreadGoesOnWhereTheLastLeftOff) {
  lane_publish(end_, transfer(1));
  // it ended between the commit and the head
  lane_publish(end_, transfer(2));
  lane_->header.head.store(1);
  end_ = adopt_lane(*lane_, cell_);
  EXPECT_EQ(end_.next, 2u);
  // and between the first byte and the commit
  slot(2).entry = transfer(99);
  end_ = adopt_lane(*lane_, cell_);
  EXPECT_EQ(lane_publish(end_, transfer(3)), 2u);
  AuditEntry e{};
  for (const std::uint64_t source : {1u, 2u, 3u}) {
    ASSERT_EQ(take(e), LaneRead::kEntry);
    EXPECT_EQ(std::uint64_t{e.source}, source);
  }
}

// What the hot path stores word by word is the entry that its fields say, whatever was in the slot before.
TEST_F(LaneTest, PublishedByWordsItIsTheSameEntry) {
  std::mt19937_64 random(7);
  for (std::uint64_t n = 0; n < 64; ++n) {
    AuditEntry e{};
    const auto direction = static_cast<abi::Direction>(random() % 8);
    const auto decision = static_cast<abi::Decision>(random() % 3);
    const auto flags = static_cast<std::uint8_t>(random() % 8);
    const auto reason = static_cast<abi::DenyReason>(random() % 14);
    const std::uint64_t bytes = random() >> 16;
    e.version_kind = abi::version_kind(EntryKind::kMap);
    e.operation = static_cast<std::uint8_t>(abi::AuditOp::k_cuMemcpyDtoHAsync);
    e.direction_decision_flags = abi::pack_verdict(direction, decision, flags);
    e.reason = static_cast<std::uint8_t>(reason);
    e.grant = static_cast<std::uint32_t>(random());
    e.utc_ns = random();
    e.source = random();
    e.destination = random();
    abi::set_bytes(e, bytes);
    e.source_device = static_cast<std::uint8_t>(random());
    e.destination_device = static_cast<std::uint8_t>(random());
    e.stream = static_cast<std::uint16_t>(random());
    const abi::EntryWords words{abi::entry_head(EntryKind::kMap, abi::AuditOp::k_cuMemcpyDtoHAsync,
                                                direction, decision, flags, reason),
                                e.grant,
                                e.utc_ns,
                                e.source,
                                e.destination,
                                abi::entry_where(bytes, e.source_device, e.destination_device),
                                e.stream};
    const std::uint64_t sequence = random() >> 16;  // all 48 bits
    abi::set_sequence(e, sequence);
    AuditEntry put;
    std::memset(static_cast<void*>(&put), 0xa5, sizeof put);
    abi::put_entry(put, words, sequence);
    ASSERT_EQ(std::memcmp(&put, &e, sizeof e), 0) << n;
    ASSERT_EQ(lane_publish(end_, words), n);
    AuditEntry taken{};
    ASSERT_EQ(take(taken), LaneRead::kEntry);
    abi::set_sequence(e, n);
    ASSERT_EQ(std::memcmp(&taken, &e, sizeof e), 0) << n;
  }
}

// Its head was noted long ago, also a round and more after the lane began.
TEST_F(LaneTest, TheNextThreadFindsTheEndBehindAnOldHead) {
  const abi::EntryWords words{
      abi::entry_head(EntryKind::kTransfer, abi::AuditOp::k_cuMemcpy, abi::Direction::kSet,
                      abi::Decision::kAllowed, 0, abi::DenyReason::kNone),
      0,
      0,
      0,
      0,
      0,
      0};
  AuditEntry e{};
  std::uint64_t published = 0;
  for (const std::uint64_t more : {std::uint64_t{15}, kLaneSlots - 20, std::uint64_t{15}}) {
    for (std::uint64_t n = 0; n < more; ++n, ++published) {
      ASSERT_TRUE(lane_has_room(end_, 1));
      lane_publish(end_, words);
      ASSERT_EQ(take(e), LaneRead::kEntry);
    }
    end_ = adopt_lane(*lane_, cell_);
    ASSERT_EQ(end_.next, published);
    lane_note_head(end_);
  }
  EXPECT_GT(published, kLaneSlots);
}

TEST_F(LaneTest, AForeignCommitIsFaultyAndNotAnEntry) {
  AuditEntry e{};
  for (const std::uint64_t rubbish : {std::uint64_t{2}, std::uint64_t{5}, ~std::uint64_t{0},
                                      std::uint64_t{1} << 48, kLaneSlots + 1}) {
    slot(0).commit.store(rubbish);
    EXPECT_EQ(read_slot(slot(0), 0, e), LaneRead::kFaulty) << rubbish;
  }
  const std::uint64_t later = 3 * kLaneSlots;
  slot(0).commit.store(later + 1 - kLaneSlots);
  EXPECT_EQ(read_slot(slot(0), later, e), LaneRead::kNothing);
  slot(0).commit.store(later + 1 - 2 * kLaneSlots);  // a rewind
  EXPECT_EQ(read_slot(slot(0), later, e), LaneRead::kFaulty);
  slot(0).commit.store(0);
  EXPECT_EQ(read_slot(slot(0), later, e), LaneRead::kFaulty);
}

TEST(LaneEntries, OnlyWhatALibraryWritesIsWellFormed) {
  AuditEntry good = transfer(1);
  abi::set_sequence(good, 9);
  ASSERT_TRUE(well_formed(good, 9));
  EXPECT_FALSE(well_formed(good, 10));
  const auto broken = [&good](auto change) {
    AuditEntry e = good;
    change(e);
    return !well_formed(e, 9);
  };
  EXPECT_TRUE(broken([](AuditEntry& e) { e.version_kind = 0x21; }));
  EXPECT_TRUE(broken([](AuditEntry& e) { e.version_kind = 0x1f; }));  // a record
  EXPECT_TRUE(broken([](AuditEntry& e) { e.version_kind = 0x17; }));
  EXPECT_TRUE(broken([](AuditEntry& e) { e.operation = 0; }));
  EXPECT_TRUE(broken([](AuditEntry& e) { e.operation = 255; }));
  EXPECT_TRUE(broken([](AuditEntry& e) { e.reason = 14; }));
  EXPECT_TRUE(broken([](AuditEntry& e) { e.direction_decision_flags = 3 << 3; }));  // the daemon's
  AuditEntry mark = good;
  mark.version_kind = abi::version_kind(EntryKind::kMark);
  mark.source = 9;
  EXPECT_FALSE(well_formed(mark, 9));
  mark.source = 8;
  EXPECT_TRUE(well_formed(mark, 9));
  EXPECT_EQ(abi::sequence_of(malformed_entry(9, 5)), 9u);
  EXPECT_EQ(abi::decision_of(malformed_entry(9, 5)), abi::Decision::kViolation);
}

// Two real threads over several rounds of the ring: each entry once, whole, in order.
TEST_F(LaneTest, AThreadWritesWhileAnotherReads) {
  constexpr std::uint64_t kEntries = 3 * kLaneSlots + 17;
  std::thread producer([this] {
    for (std::uint64_t n = 0; n < kEntries; ++n) {
      AuditEntry e = transfer(n * 3);
      e.destination = n * 5;
      e.stream = static_cast<std::uint16_t>(n);
      while (!lane_has_room(end_, 1)) std::this_thread::yield();
      lane_publish(end_, e);
    }
  });
  AuditEntry e{};
  while (taken_ < kEntries) {
    const std::uint64_t n = taken_;
    const LaneRead seen = take(e);
    if (seen == LaneRead::kNothing) {
      std::this_thread::yield();
      continue;
    }
    ASSERT_EQ(seen, LaneRead::kEntry);
    ASSERT_EQ(abi::sequence_of(e), n);
    ASSERT_EQ(std::uint64_t{e.source}, n * 3);
    ASSERT_EQ(std::uint64_t{e.destination}, n * 5);
    ASSERT_EQ(std::uint16_t{e.stream}, static_cast<std::uint16_t>(n));
  }
  producer.join();
}

}  // namespace
}  // namespace bulkhead::shm
