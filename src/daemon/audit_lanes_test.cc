#include "daemon/audit_lanes_fixture.h"

namespace bulkhead::daemon {
namespace {

using namespace test;

TEST_F(AuditLanesTest, EntriesArriveInOrderUnderTheDaemonsNumbers) {
  start();
  Client client;
  LaneAnswer a = ask(wire::kLaneFirst);
  client.take(a);
  for (std::uint64_t n = 0; n < 1000; ++n) client.put(n % 2 == 0 ? 0 : shm::kSharedLane, n);
  ASSERT_TRUE(wait_entries(1000));
  std::map<unsigned, std::uint64_t> next;
  for (const AuditEntry& e : entries()) {
    EXPECT_EQ(std::uint32_t{e.session}, a.session);
    ASSERT_TRUE(e.lane == 0 || e.lane == shm::kSharedLane);
    ASSERT_EQ(abi::sequence_of(e), next[e.lane]);
    ASSERT_EQ(std::uint64_t{e.source}, 2 * next[e.lane]++ + (e.lane == 0 ? 0 : 1));
  }
  ASSERT_EQ(records("session").size(), 1u);
  EXPECT_FALSE(log_.all().front().record.empty()) << "the session's record comes first";
  EXPECT_NE(records("session")[0].find("\"tenant\":\"t\""), std::string::npos);
}

// The whole ring, several times, against a reader that is asleep at first.
TEST_F(AuditLanesTest, AFullLaneWaitsAndLosesNothing) {
  start();
  Client client;
  LaneAnswer a = ask(wire::kLaneFirst);
  client.take(a);
  shm::LaneEnd& end = client.lanes.at(0);
  constexpr std::uint64_t kMany = 2 * shm::kLaneSlots + 5;
  for (std::uint64_t n = 0; n < kMany; ++n) {
    while (!shm::lane_has_room(end, 1)) ::sched_yield();
    client.put(0, n);
  }
  ASSERT_TRUE(wait_entries(kMany));
  std::uint64_t expected = 0;
  for (const AuditEntry& e : entries()) ASSERT_EQ(std::uint64_t{e.source}, expected++);
  EXPECT_GT(lanes_->figures().high_water, 0u);
}

TEST_F(AuditLanesTest, SixteenLanesThenTheSharedOne) {
  start();
  Client client;
  LaneAnswer first = ask(wire::kLaneFirst);
  client.take(first);
  for (unsigned n = 1; n < shm::kOwnLanes; ++n) {
    LaneAnswer a = ask(0);
    client.take(a);
    EXPECT_EQ(a.lane, n);
  }
  EXPECT_EQ(ask(0).result, Errc::kFull);
  EXPECT_EQ(lanes_->lanes("t"), shm::kLanes);
}

TEST_F(AuditLanesTest, TheBudgetLeavesTheSharedLaneAndThenNothing) {
  start(sizeof(shm::Lane));
  Client client;
  LaneAnswer a = ask(wire::kLaneFirst);
  client.take(a);
  EXPECT_EQ(a.given, std::uint32_t{wire::kGivenBell | wire::kGivenPage | wire::kGivenShared});
  EXPECT_EQ(ask(0).result, Errc::kFull);
  lanes_.reset();
  start(sizeof(shm::Lane) - 1);
  EXPECT_EQ(ask(wire::kLaneFirst, "u").result, Errc::kFull);
  EXPECT_EQ(ask(0, "v").result, Errc::kNotFound);
}

// By the ledger's word: a process that says nothing of enforce is not believed.
TEST_F(AuditLanesTest, WhoHasNotLoadedTheSignedLibraryGetsNoLaneUnderEnforce) {
  loaded_ = kOtherShim;
  enforced_ = "t";
  start();
  EXPECT_EQ(ask(wire::kLaneFirst).result, Errc::kUntrusted);
  EXPECT_EQ(ask(wire::kLaneFirst, "other").result, Errc::kOk);
  EXPECT_EQ(ask(wire::kLaneFirst | wire::kLaneEnforce, "other").result, Errc::kUntrusted);
  loaded_ = std::string(64, 'a');
  EXPECT_EQ(ask(wire::kLaneFirst).result, Errc::kOk);
}

TEST_F(AuditLanesTest, WhatTheTenantGetsCannotBeMadeWritable) {
  start();
  LaneAnswer a = ask(wire::kLaneFirst);
  ASSERT_EQ(a.fds.size(), 4u);
  for (int i : {0, 1}) {
    EXPECT_EQ(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, a.fds[i].get(), 0),
              MAP_FAILED);
    EXPECT_EQ(::write(a.fds[i].get(), "x", 1), -1);
  }
  for (const UniqueFd& fd : a.fds) EXPECT_NE(::ftruncate(fd.get(), 1), 0);
}

TEST_F(AuditLanesTest, RubbishSpoilsWhatItSaysNotTheCount) {
  start();
  Client client;
  LaneAnswer a = ask(wire::kLaneFirst);
  client.take(a);
  client.put(0, 1);
  shm::LaneEnd& end = client.lanes.at(0);
  shm::LaneSlot& slot = end.lane->slots[1];
  std::memset(static_cast<void*>(&slot.entry), 0xff, sizeof slot.entry);
  slot.commit.store(2);
  end.next = 2;
  client.put(0, 3);
  ASSERT_TRUE(wait_entries(3));
  const auto all = entries();
  EXPECT_EQ(abi::decision_of(all[1]), abi::Decision::kViolation);
  EXPECT_EQ(all[1].reason, static_cast<std::uint8_t>(abi::DenyReason::kMalformed));
  for (std::uint64_t n = 0; n < 3; ++n) EXPECT_EQ(abi::sequence_of(all[n]), n);
}

TEST_F(AuditLanesTest, AForeignCommitEndsOneLaneWithAFindingAndNoOther) {
  start();
  Client client;
  LaneAnswer a = ask(wire::kLaneFirst);
  client.take(a);
  client.put(0, 1);
  client.lanes.at(0).lane->slots[1].commit.store(12345);
  ASSERT_TRUE(wait_record("\"record\":\"finding\""));
  for (std::uint64_t n = 0; n < 300; ++n) client.put(shm::kSharedLane, n);
  ASSERT_TRUE(wait_entries(301));
  EXPECT_EQ(records("finding").size(), 1u);
  EXPECT_NE(records("finding")[0].find("\"sequence\":1"), std::string::npos);
  EXPECT_EQ(client.page->cells[0].state.load(), shm::kLaneFaulty);
}

TEST_F(AuditLanesTest, WhatTheCheckRefusesIsAViolation) {
  check_ = [](const AuditSession& s, const AuditEntry& e) {
    EXPECT_EQ(s.tenant, "t");
    return e.source == 1 ? abi::DenyReason::kExpired : abi::DenyReason::kNone;
  };
  start();
  Client client;
  LaneAnswer a = ask(wire::kLaneFirst);
  client.take(a);
  client.put(0, 0);
  client.put(0, 1);
  ASSERT_TRUE(wait_entries(2));
  EXPECT_EQ(abi::decision_of(entries()[0]), abi::Decision::kAllowed);
  EXPECT_EQ(abi::decision_of(entries()[1]), abi::Decision::kViolation);
  EXPECT_EQ(entries()[1].reason, static_cast<std::uint8_t>(abi::DenyReason::kExpired));
}

TEST_F(AuditLanesTest, ADeadProcessIsDrainedAndEndedAndItsMemoryGoes) {
  start();
  int gate[2];
  ASSERT_EQ(::pipe(gate), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    char c;
    (void)!::read(gate[0], &c, 1);
    ::_exit(0);
  }
  wire::LaneRequest q{};
  wire::put_text(q.name, "t");
  q.flags = wire::kLaneFirst;
  Peer peer = self();
  peer.pid = static_cast<std::uint32_t>(child);
  peer.start_ticks = ticks_of(child);
  Client client;
  LaneAnswer a = lanes_->request(peer, q, pidfd(child));
  client.take(a);
  for (std::uint64_t n = 0; n < 777; ++n) client.put(0, n);
  ::kill(child, SIGKILL);
  loop_.add(*lanes_);
  while (lanes_->sessions() != 0) loop_.turn(1000);
  ::waitpid(child, nullptr, 0);
  EXPECT_EQ(entries().size(), 777u);
  ASSERT_EQ(records("session_end").size(), 1u);
  EXPECT_NE(records("session_end")[0].find("{\"faulty\":false,\"lane\":0,\"next\":777}"),
            std::string::npos)
      << records("session_end")[0];
  EXPECT_EQ(shelf_.fds.size(), 2u) << "bell and intent";
  ::close(gate[0]);
  ::close(gate[1]);
}

TEST_F(AuditLanesTest, AskingForTheFirstLaneAgainEndsTheOldSession) {
  start();
  Client before, after;
  LaneAnswer a = ask(wire::kLaneFirst);
  before.take(a);
  before.put(0, 5);
  LaneAnswer b = ask(wire::kLaneFirst);
  after.take(b);
  EXPECT_NE(a.session, b.session);
  ASSERT_TRUE(wait_record("\"record\":\"session_end\""));
  EXPECT_NE(records("session_end")[0].find("another program"), std::string::npos);
  EXPECT_EQ(entries().size(), 1u);
}

TEST_F(AuditLanesTest, TheNextDaemonGoesOnWhereTheLastLeftOff) {
  start();
  Client client;
  LaneAnswer a = ask(wire::kLaneFirst);
  client.take(a);
  std::uint64_t n = 0;
  for (int life = 0; life < 4; ++life) {
    for (int i = 0; i < 500; ++i) client.put(i % 2 == 0 ? 0 : shm::kSharedLane, n++);
    crash();
    for (int i = 0; i < 50; ++i) client.put(i % 2 == 0 ? 0 : shm::kSharedLane, n++);
    start();
  }
  ASSERT_TRUE(wait_entries(n));
  crash();
  std::map<unsigned, std::uint64_t> next;
  for (const AuditEntry& e : entries()) ASSERT_EQ(abi::sequence_of(e), next[e.lane]++);
  EXPECT_EQ(entries().size(), n);
  EXPECT_EQ(records("session").size(), 1u);
  start();
  LaneAnswer more = ask(0);
  EXPECT_EQ(more.result, Errc::kOk) << "it knows the session";
  LaneAnswer other = ask(wire::kLaneFirst);
  EXPECT_GT(other.session, a.session);
}

// Killed between the intent and the tail, with 0, some, or all of the batch in the sink.
TEST_F(AuditLanesTest, ABatchThatWasUnderWayIsNeitherLostNorDoubled) {
  for (const std::uint64_t arrived : {0u, 1u, 4u, 10u}) {
    SCOPED_TRACE(arrived);
    start();
    Client client;
    LaneAnswer a = ask(wire::kLaneFirst);
    client.take(a);
    for (std::uint64_t n = 0; n < 5; ++n) client.put(0, n);
    ASSERT_TRUE(log_.wait([&](const auto& leaves) {
      return std::any_of(leaves.begin(), leaves.end(), [&](const Leaf& l) {
        return l.record.empty() && l.entry.session == a.session && abi::sequence_of(l.entry) == 4;
      });
    }));
    crash();
    for (std::uint64_t n = 5; n < 15; ++n) client.put(0, n);
    // what the dead one had done of [5, 15)
    auto* at =
        ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, shelf_.fds.at("intent"), 0);
    ASSERT_NE(at, MAP_FAILED);
    shm::intend(*static_cast<shm::Intent*>(at), shm::IntentKind::kEntries, a.session, 0, 5, 10,
                log_.all().size());
    ::munmap(at, 4096);
    for (std::uint64_t n = 0; n < arrived; ++n) {
      AuditEntry e{};
      e.session = a.session;
      abi::set_sequence(e, 5 + n);
      log_.leaves.push_back({e, {}});
    }
    start();
    ASSERT_TRUE(log_.wait([&](const auto& leaves) {
      return std::any_of(leaves.begin(), leaves.end(), [&](const Leaf& l) {
        return l.record.empty() && l.entry.session == a.session && abi::sequence_of(l.entry) == 14;
      });
    }));
    std::uint64_t next = 0;
    for (const AuditEntry& e : entries()) {
      if (e.session == a.session) {
        ASSERT_EQ(abi::sequence_of(e), next++);
      }
    }
    EXPECT_EQ(next, 15u);
    crash();
  }
}

TEST_F(AuditLanesTest, AFullDiskIsWaitedForAndABrokenOneIsTold) {
  start();
  Client client;
  LaneAnswer a = ask(wire::kLaneFirst);
  client.take(a);
  ASSERT_TRUE(wait_record("\"record\":\"session\""));
  {
    const std::lock_guard held{log_.mutex};
    log_.takes = log_.leaves.size();
  }
  client.put(0, 1);
  while (lanes_->figures().sink_stalls == 0) ::sched_yield();
  {
    const std::lock_guard held{log_.mutex};
    log_.takes = ~std::uint64_t{0};
  }
  ASSERT_TRUE(wait_entries(1));
  {
    const std::lock_guard held{log_.mutex};
    log_.broken = true;
  }
  client.put(0, 2);
  loop_.add(*lanes_);
  while (alarm_.find("a broken disk") == std::string::npos) loop_.turn(1000);
  EXPECT_EQ(ask(wire::kLaneFirst).result, Errc::kNotReady);
  EXPECT_EQ(client.page->cells[0].tail.load(), 1u) << "the tail never passes what was taken over";
}

}  // namespace
}  // namespace bulkhead::daemon
