#include "shm/grant_table.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <thread>
#include <vector>

namespace bulkhead::shm {
namespace {

using abi::DenyReason;
constexpr std::uint8_t kH2d = 1 << 1, kD2h = 1 << 2;

class Table : public testing::Test {
 protected:
  std::unique_ptr<GrantTable> owned = std::make_unique<GrantTable>();
  GrantTable& table = *owned;
  std::uint32_t serial = 0;
  void SetUp() override {
    const std::uint8_t uuids[2][16] = {{1}, {2}};
    format_grants(table, "trade", uuids, 2);
  }
  GrantHandle put(GrantValues v, std::uint64_t secret = 0x5ec7e7) {
    const auto h = put_grant(table, v, secret);
    return h.ok() ? *h : GrantHandle{};
  }
  static GrantValues usual() {
    GrantValues v;
    v.not_before_ns = 1000;
    v.not_after_ns = 2000;
    v.serial = 7;
    v.devices = 1;
    v.directions = kH2d;
    return v;
  }
  static GrantNeed need(std::uint8_t directions = kH2d, std::uint32_t devices = 1) {
    GrantNeed n;
    n.directions = directions;
    n.devices = devices;
    n.bytes = n.bytes_here = 64;
    return n;
  }
  DenyReason check(GrantHandle h, const GrantNeed& n = need(), std::uint64_t now = 1500) {
    serial = 0;
    return check_grant(table, h, n, now, &serial);
  }
};

TEST_F(Table, AGrantCoversWhatItSays) {
  const GrantHandle h = put(usual());
  EXPECT_EQ(check(h), DenyReason::kNone);
  EXPECT_EQ(serial, 7u);
  EXPECT_EQ(check(h, need(kD2h)), DenyReason::kDirection);
  EXPECT_EQ(serial, 7u);  // whose grant it was is known
  EXPECT_EQ(check(h, need(kH2d | kD2h)), DenyReason::kDirection);
  EXPECT_EQ(check(h, need(kH2d, 2)), DenyReason::kDevice);
  EXPECT_EQ(check(h, need(kH2d, 3)), DenyReason::kDevice);
  EXPECT_EQ(check(h, need(kH2d, 1u << 16)), DenyReason::kDevice);
  EXPECT_EQ(check(h, need(kH2d, 0)), DenyReason::kNone);
  EXPECT_EQ(check(h, need(kMapBit)), DenyReason::kDirection);
}

TEST_F(Table, TimeEndsIt) {
  const GrantHandle h = put(usual());
  EXPECT_EQ(check(h, need(), 999), DenyReason::kNotYetValid);
  EXPECT_EQ(check(h, need(), 1000), DenyReason::kNone);
  EXPECT_EQ(check(h, need(), 1999), DenyReason::kNone);
  EXPECT_EQ(check(h, need(), 2000), DenyReason::kExpired);
  EXPECT_EQ(check(h, need(), kAnyTime), DenyReason::kNone);
}

TEST_F(Table, EveryBitOfAHandleCounts) {
  const GrantHandle h = put(usual());
  for (int bit = 0; bit < 64; ++bit) {
    EXPECT_NE(check({h.high ^ 1ull << bit, h.secret}), DenyReason::kNone) << bit;
    EXPECT_NE(check({h.high, h.secret ^ 1ull << bit}), DenyReason::kNone) << bit;
  }
  EXPECT_NE(check(GrantHandle{}), DenyReason::kNone);
}

TEST_F(Table, AnEndedHandleStaysEnded) {
  const GrantHandle h = put(usual());
  EXPECT_TRUE(end_grant(table, h, DenyReason::kExpired));
  EXPECT_FALSE(end_grant(table, h, DenyReason::kExpired));
  EXPECT_EQ(check(h), DenyReason::kRevoked);
  EXPECT_EQ(ended_why(table, h), DenyReason::kExpired);
  GrantHandle all[kMostLivingGrants];
  EXPECT_EQ(living_grants(table, all), 0u);
  // the slot comes around again after all others, and the old handle still fits nothing
  for (unsigned i = 0; i <= kGrantSlots; ++i) {
    const GrantHandle other = put(usual());
    ASSERT_NE(other.secret, 0u);
    ASSERT_TRUE(end_grant(table, other, DenyReason::kRevoked));
  }
  const GrantHandle again = put(usual());
  EXPECT_EQ(check(again), DenyReason::kNone);
  EXPECT_NE(check(h), DenyReason::kNone);
}

TEST_F(Table, AnEpochEndsAll) {
  const GrantHandle a = put(usual()), b = put(usual());
  raise_epoch(table);
  EXPECT_EQ(check(a), DenyReason::kRevoked);
  EXPECT_EQ(check(b), DenyReason::kRevoked);
  EXPECT_EQ(table.header.live.load(), 0u);
  EXPECT_EQ(check(put(usual())), DenyReason::kNone);
}

// Each alone: an epoch that has been raised refuses handles whose slots still stand.
TEST_F(Table, TheEpochAloneRefuses) {
  const GrantHandle a = put(usual());
  table.header.epoch.fetch_add(1);
  EXPECT_EQ(check(a), DenyReason::kRevoked);
}

TEST_F(Table, RangesAndBytesAreHeld) {
  GrantValues v = usual();
  v.address = 0x1000;
  v.length = 0x100;
  v.bytes = 100;
  const GrantHandle h = put(v);
  GrantNeed n = need();
  EXPECT_EQ(check(h, n), DenyReason::kNone);  // host addresses are not looked at
  n.destination = 0x1000;
  EXPECT_EQ(check(h, n), DenyReason::kNone);
  n.destination = 0x10c0;
  EXPECT_EQ(check(h, n), DenyReason::kNone);
  n.destination = 0x10c1;
  EXPECT_EQ(check(h, n), DenyReason::kRange);
  n.destination = 0xfff;
  EXPECT_EQ(check(h, n), DenyReason::kRange);
  n.destination = ~0ull;
  EXPECT_EQ(check(h, n), DenyReason::kRange);
  n.destination = 0;
  n.source = 0x2000;
  EXPECT_EQ(check(h, n), DenyReason::kRange);
  n.source = 0x1000;
  n.bytes_here = ~0ull;
  EXPECT_EQ(check(h, n), DenyReason::kRange);
  n = need();
  n.bytes = 101;
  EXPECT_EQ(check(h, n), DenyReason::kBytes);
}

TEST_F(Table, TheOneThatEndsLastComesFirst) {
  const auto ends_at = [](std::uint64_t ns) {
    GrantValues v = usual();
    v.not_after_ns = ns;
    return v;
  };
  const GrantHandle a = put(ends_at(2000)), b = put(ends_at(3000)), c = put(ends_at(2500));
  GrantHandle all[kMostLivingGrants];
  ASSERT_EQ(living_grants(table, all), 3u);
  EXPECT_EQ(all[0].high, b.high);
  EXPECT_EQ(all[1].high, c.high);
  EXPECT_EQ(all[2].high, a.high);
  const std::uint32_t changes = table.header.changes.load();
  EXPECT_TRUE(end_grant(table, b, DenyReason::kRevoked));
  EXPECT_NE(table.header.changes.load(), changes);
  ASSERT_EQ(living_grants(table, all), 2u);
  EXPECT_EQ(all[0].high, c.high);
}

TEST_F(Table, SixtyFourLive) {
  for (unsigned i = 0; i < kMostLivingGrants; ++i) EXPECT_NE(put(usual()).secret, 0u);
  EXPECT_EQ(put_grant(table, usual(), 1).status().code(), Errc::kFull);
}

TEST_F(Table, RubbishIsRefused) {
  EXPECT_TRUE(check_grants(table, sizeof table).ok());
  EXPECT_EQ(check_grants(table, sizeof table - 1).code(), Errc::kBadSize);
  table.header.major = 2;
  EXPECT_EQ(check_grants(table, sizeof table).code(), Errc::kBadVersion);
  table.header.magic = 1;
  EXPECT_EQ(check_grants(table, sizeof table).code(), Errc::kBadMagic);
  std::memset(static_cast<void*>(&table), 0xff, sizeof table);
  GrantHandle all[kMostLivingGrants];
  EXPECT_LE(living_grants(table, all), kMostLivingGrants);
  EXPECT_NE(check({~0ull, ~0ull}), DenyReason::kNone);  // odd for ever: refused after a bound
}

// ---- what a thread keeps
TEST_F(Table, WhatIsKeptSaysWhatTheSlotSays) {
  GrantKept kept;
  EXPECT_FALSE(kept_covers(table, kept, 0, 0));  // nothing is kept
  for (const std::uint32_t changes :
       {1u, 2u, ~0u}) {  // 1: the table's first change, in which its writer may have died
    table.header.changes.store(changes);
    EXPECT_FALSE(kept_covers(table, kept, 0, 0)) << changes;
    EXPECT_FALSE(kept_covers(table, kept, kH2d, 1)) << changes;
  }
  table.header.changes.store(0);
  ASSERT_TRUE(keep_grant(table, put(usual()), kept));
  EXPECT_EQ(kept.serial, 7u);
  EXPECT_TRUE(kept_covers(table, kept, kH2d, 1));
  EXPECT_TRUE(kept_covers(table, kept, kH2d, 0));
  EXPECT_FALSE(kept_covers(table, kept, kD2h, 1));
  EXPECT_FALSE(kept_covers(table, kept, kH2d | kD2h, 1));
  EXPECT_FALSE(kept_covers(table, kept, kMapBit, 1));
  EXPECT_FALSE(kept_covers(table, kept, kH2d, 2));
  EXPECT_FALSE(kept_covers(table, kept, kH2d, 1u << 16));
  EXPECT_FALSE(kept_is_now(kept, 999));
  EXPECT_TRUE(kept_is_now(kept, 1000));
  EXPECT_TRUE(kept_is_now(kept, 1999));
  EXPECT_FALSE(kept_is_now(kept, 2000));
  EXPECT_FALSE(kept_is_now(kept, 0));
  EXPECT_FALSE(kept_is_now(kept, ~0ull));
}

TEST_F(Table, AnyChangeEndsWhatIsKept) {
  const GrantHandle a = put(usual()), b = put(usual());
  GrantKept kept;
  const auto again = [&] {
    return keep_grant(table, a, kept) && kept_covers(table, kept, kH2d, 1);
  };
  ASSERT_TRUE(again());
  const GrantHandle c = put(usual());
  EXPECT_FALSE(kept_covers(table, kept, kH2d, 1));
  ASSERT_TRUE(again());
  EXPECT_TRUE(end_grant(table, b, DenyReason::kExpired));
  EXPECT_FALSE(kept_covers(table, kept, kH2d, 1));
  ASSERT_TRUE(again());
  EXPECT_TRUE(end_grant(table, a, DenyReason::kRevoked));
  EXPECT_FALSE(kept_covers(table, kept, kH2d, 1));
  EXPECT_FALSE(keep_grant(table, a, kept));
  ASSERT_TRUE(keep_grant(table, c, kept));
  raise_epoch(table);
  EXPECT_FALSE(kept_covers(table, kept, kH2d, 1));
  EXPECT_FALSE(keep_grant(table, c, kept));
  GrantHandle all[kMostLivingGrants];
  EXPECT_EQ(living_grants(table, all), 0u);
}

TEST_F(Table, WhatMustBeLookedAtIsNotKept) {
  GrantKept kept;
  const GrantHandle h = put(usual());
  for (int bit = 0; bit < 64; ++bit) {
    EXPECT_FALSE(keep_grant(table, {h.high ^ 1ull << bit, h.secret}, kept)) << bit;
    EXPECT_FALSE(keep_grant(table, {h.high, h.secret ^ 1ull << bit}, kept)) << bit;
    EXPECT_FALSE(kept_covers(table, kept, 0, 0));
  }
  GrantValues v = usual();
  v.bytes = 100;
  EXPECT_FALSE(keep_grant(table, put(v), kept));
  v = usual();
  v.length = 4096;
  EXPECT_FALSE(keep_grant(table, put(v), kept));
  v = usual();
  v.not_after_ns = v.not_before_ns;
  EXPECT_FALSE(keep_grant(table, put(v), kept));
  table.header.minor = 0;  // a daemon that does not say that it is changing the table
  EXPECT_FALSE(keep_grant(table, h, kept));
  table.header.minor = kGrantMinor;
  ASSERT_TRUE(keep_grant(table, h, kept));
  table.header.changes.fetch_or(1);  // its writer died in a change
  EXPECT_FALSE(kept_covers(table, kept, kH2d, 1));
  EXPECT_FALSE(keep_grant(table, h, kept));
  EXPECT_EQ(check(h), DenyReason::kNone);  // by the slot, as before
}

// Others keep what they find while grants come and go: what is kept is whole, and never good for a grant that had ended before the check.
TEST_F(Table, NothingKeptOutlivesItsGrant) {
  constexpr int kRounds = 20'000;
  std::atomic<std::uint64_t> high{0}, ended_up_to{0}, accepted{0};
  std::atomic<bool> stop{false};
  std::atomic<int> bad{0};
  std::vector<std::thread> readers;
  for (int r = 0; r < 2; ++r) {
    readers.emplace_back([&] {
      GrantKept kept;
      while (!stop.load()) {
        const std::uint64_t ended = ended_up_to.load(std::memory_order_acquire);
        if (kept_covers(table, kept, kH2d, 0)) {
          if (kept.serial <= ended) ++bad;
          if ((kept.refused_directions & kD2h) == 0 && kept.serial % 2 != 0) ++bad;
          accepted.fetch_add(1);
        } else {
          const std::uint64_t h = high.load(std::memory_order_acquire);
          static_cast<void>(keep_grant(table, {h, 1}, kept));
        }
      }
    });
  }
  for (std::uint32_t s = 1; s < kGrantSlots; ++s) table.slots[s].turn.store(0x4000'0000ull << 32);
  const auto one = [&](std::uint32_t i) {
    GrantValues v = usual();
    v.serial = i;
    v.directions = i % 2 != 0 ? kH2d : kH2d | kD2h;
    const GrantHandle h = put(v, 1);
    high.store(h.high, std::memory_order_release);
    return h;
  };
  std::uint32_t i = 1;
  for (; i <= kRounds; ++i) {
    ASSERT_TRUE(end_grant(table, one(i), DenyReason::kRevoked));
    ended_up_to.store(i, std::memory_order_release);
  }
  // one that stays, so that something was surely kept, and an epoch at last
  static_cast<void>(one(i));
  const std::uint64_t before = accepted.load();
  while (accepted.load() == before) std::this_thread::yield();
  raise_epoch(table);
  ended_up_to.store(i, std::memory_order_release);
  stop.store(true);
  for (auto& t : readers) t.join();
  EXPECT_EQ(bad.load(), 0);
}

// A slot goes from grant to grant while others check: each grant's directions follow from its serial, so fields of two grants
// would show; and a handle that was ended before the check began is never accepted.
TEST_F(Table, NoCheckSeesTwoGrantsOrAnEndedOne) {
  constexpr int kRounds = 20'000;
  std::atomic<std::uint64_t> high{0}, ended_before{0};
  std::atomic<bool> stop{false};
  std::atomic<int> bad{0};
  std::vector<std::thread> readers;
  for (int r = 0; r < 2; ++r) {
    readers.emplace_back([&] {
      while (!stop.load()) {
        const std::uint64_t ended = ended_before.load(std::memory_order_acquire);
        const std::uint64_t h = high.load(std::memory_order_acquire);
        std::uint32_t of = 0;
        if (ended != 0 &&
            check_grant(table, {ended, 1}, need(0, 0), kAnyTime, &of) == DenyReason::kNone)
          ++bad;
        const std::uint8_t all = kH2d | kD2h;
        if (h != 0 &&
            check_grant(table, {h, 1}, need(all, 0), kAnyTime, &of) == DenyReason::kNone &&
            of % 2 != 0)
          ++bad;  // odd serials have one direction only
      }
    });
  }
  for (std::uint32_t i = 1; i <= kRounds; ++i) {
    GrantValues v = usual();
    v.serial = i;
    v.directions = i % 2 != 0 ? kH2d : kH2d | kD2h;
    for (std::uint32_t s = 1; s < kGrantSlots && i == 1; ++s)
      table.slots[s].turn.store(0x4000'0000ull << 32);  // so that slot 0 is used again and again
    const GrantHandle h = put(v, 1);
    ASSERT_EQ(h.slot(), 0u);
    high.store(h.high, std::memory_order_release);
    ASSERT_TRUE(end_grant(table, h, DenyReason::kRevoked));
    ended_before.store(h.high, std::memory_order_release);
  }
  stop.store(true);
  for (auto& t : readers) t.join();
  EXPECT_EQ(bad.load(), 0);
}

}  // namespace
}  // namespace bulkhead::shm
