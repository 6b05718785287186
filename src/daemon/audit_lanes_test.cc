#include "daemon/audit_lanes.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <deque>
#include <filesystem>
#include <mutex>

#include "daemon/loop.h"
#include "daemon/peer.h"
#include "wire/parse.h"

namespace bulkhead::daemon {
namespace {

using abi::AuditEntry;

struct Leaf {
  AuditEntry entry{};
  std::string record;  // not empty: it is one
};

// What a log would hold; it lives longer than the daemon that writes it.
struct Log {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Leaf> leaves;
  std::uint64_t takes = ~std::uint64_t{0};  // leaves until it is full
  bool broken = false;

  std::vector<Leaf> all() {
    const std::lock_guard held{mutex};
    return leaves;
  }
  template <class Condition>
  bool wait(Condition condition) {
    std::unique_lock held{mutex};
    return changed.wait_for(held, std::chrono::seconds{60}, [&] { return condition(leaves); });
  }
};

class LogSink final : public audit::Sink {
 public:
  explicit LogSink(Log& log) : log_(log) {}
  Status entries(std::span<const AuditEntry> batch) noexcept override {
    const std::lock_guard held{log_.mutex};
    if (log_.broken) return Status{Errc::kIo, 0, "a broken disk"};
    if (log_.leaves.size() + batch.size() > log_.takes) return Status{Errc::kFull, 0, "full"};
    for (const AuditEntry& e : batch) log_.leaves.push_back({e, {}});
    log_.changed.notify_all();
    return {};
  }
  Status record(std::string_view json) noexcept override {
    const std::lock_guard held{log_.mutex};
    if (log_.broken) return Status{Errc::kIo, 0, "a broken disk"};
    log_.leaves.push_back({{}, std::string{json}});
    log_.changed.notify_all();
    return {};
  }
  std::uint64_t size() const noexcept override {
    const std::lock_guard held{log_.mutex};
    return log_.leaves.size();
  }
  std::uint64_t durable() const noexcept override { return size(); }

 private:
  Log& log_;
};

// Holds descriptors in this process.
struct Shelf {
  std::map<std::string, int> fds;
  ~Shelf() {
    for (const auto& [name, fd] : fds) ::close(fd);
  }
};
class ShelfKeep final : public Keep {
 public:
  explicit ShelfKeep(Shelf& shelf) : shelf_(shelf) {}
  Status put(const std::string& name, int fd) override {
    drop(name);
    shelf_.fds[name] = ::dup(fd);
    return {};
  }
  void drop(const std::string& name) override {
    const auto at = shelf_.fds.find(name);
    if (at == shelf_.fds.end()) return;
    ::close(at->second);
    shelf_.fds.erase(at);
  }
  std::vector<Kept> take() override {
    std::vector<Kept> out;
    for (const auto& [name, fd] : shelf_.fds) out.push_back({name, UniqueFd{::dup(fd)}});
    return out;
  }
  const char* who() const override { return "the shelf"; }

 private:
  Shelf& shelf_;
};

// What the library does with the answer, without the library.
struct Client {
  const shm::Bell* bell = nullptr;
  const shm::LanePage* page = nullptr;
  std::map<unsigned, shm::LaneEnd> lanes;
  std::vector<Mapping> maps;

  void* map(const UniqueFd& fd, std::size_t bytes, int protection) {
    void* at = ::mmap(nullptr, bytes, protection, MAP_SHARED, fd.get(), 0);
    if (at == MAP_FAILED) return nullptr;
    maps.emplace_back(at, bytes);
    return at;
  }
  void lane(unsigned n, const UniqueFd& fd) {
    auto* lane = static_cast<shm::Lane*>(map(fd, sizeof(shm::Lane), PROT_READ | PROT_WRITE));
    ASSERT_NE(lane, nullptr);
    lanes[n] = shm::adopt_lane(*lane, page->cells[n]);
  }
  void take(LaneAnswer& a) {
    ASSERT_EQ(a.result, Errc::kOk) << a.text;
    std::size_t i = 0;
    if ((a.given & wire::kGivenBell) != 0)
      bell = static_cast<const shm::Bell*>(map(a.fds[i++], sizeof(shm::Bell), PROT_READ));
    if ((a.given & wire::kGivenPage) != 0)
      page = static_cast<const shm::LanePage*>(map(a.fds[i++], sizeof(shm::LanePage), PROT_READ));
    if ((a.given & wire::kGivenShared) != 0) lane(shm::kSharedLane, a.fds[i++]);
    if ((a.given & wire::kGivenOwn) != 0) lane(a.lane, a.fds[i++]);
  }
  void put(unsigned n, std::uint64_t source) {
    shm::LaneEnd& end = lanes.at(n);
    ASSERT_TRUE(shm::lane_has_room(end, 1));
    AuditEntry e{};
    e.version_kind = abi::version_kind(abi::EntryKind::kTransfer);
    e.operation = static_cast<std::uint8_t>(abi::AuditOp::k_cuMemcpy);
    e.session = 99;  // forged
    e.lane = 77;
    e.source = source;
    shm::lane_publish(end, e);
    if (bell->asleep.load() != 0)
      ::syscall(SYS_futex, &bell->asleep, 1 /*wake*/, 1, nullptr, nullptr, 0);
  }
};

class AuditLanesTest : public testing::Test {
 protected:
  void start(std::uint64_t budget = 1ull << 30) {
    AuditRules rules;
    rules.lane_budget = budget;
    AuditLanes::Outside outside;
    outside.poller = &loop_.poller();
    outside.reserve_serials = [this](std::uint32_t least) {
      const std::uint32_t from = std::max(least, next_serial_);
      next_serial_ = from + AuditLanes::kSerialsAtOnce;
      return from;
    };
    outside.alarm = [this](const std::string& text) { alarm_ = text; };
    outside.check = check_;
    lanes_ = std::make_unique<AuditLanes>(std::move(outside), rules);
    ASSERT_EQ(lanes_->open(std::make_unique<ShelfKeep>(shelf_), std::make_unique<LogSink>(log_),
                           log_.all().size()),
              "");
  }
  // As SIGKILL: nothing is said, what was kept stays (the thread is ended after its round).
  void crash() {
    lanes_->writer()->stop();
    const std::map<std::string, int> kept = shelf_.fds;
    std::map<std::string, int> copies;
    for (const auto& [name, fd] : kept) copies[name] = ::dup(fd);
    lanes_.reset();
    for (const auto& [name, fd] : shelf_.fds) ::close(fd);
    shelf_.fds = copies;
  }
  static Peer self() {
    Peer p;
    p.pid = static_cast<std::uint32_t>(::getpid());
    p.uid = ::getuid();
    p.start_ticks = ticks_of(::getpid());
    return p;
  }
  static std::uint64_t ticks_of(pid_t pid);
  static UniqueFd pidfd(pid_t pid) {
    return UniqueFd{static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))};
  }
  LaneAnswer ask(std::uint32_t flags, const char* tenant = "t") {
    wire::LaneRequest q{};
    wire::put_text(q.name, tenant);
    q.flags = flags;
    q.device_count = 1;
    q.devices[0][0] = 7;
    return lanes_->request(self(), q, pidfd(::getpid()));
  }
  std::vector<AuditEntry> entries() {
    std::vector<AuditEntry> out;
    for (const Leaf& l : log_.all())
      if (l.record.empty()) out.push_back(l.entry);
    return out;
  }
  std::vector<std::string> records(const std::string& of) {
    std::vector<std::string> out;
    for (const Leaf& l : log_.all())
      if (l.record.find("\"record\":\"" + of + "\"") != std::string::npos) out.push_back(l.record);
    return out;
  }
  bool wait_entries(std::size_t n) {
    return log_.wait([n](const auto& leaves) {
      return static_cast<std::size_t>(std::count_if(
                 leaves.begin(), leaves.end(), [](const Leaf& l) { return l.record.empty(); })) >=
             n;
    });
  }
  bool wait_record(const std::string& part) {
    return log_.wait([&part](const auto& leaves) {
      return std::any_of(leaves.begin(), leaves.end(), [&part](const Leaf& l) {
        return l.record.find(part) != std::string::npos;
      });
    });
  }

  Log log_;
  Shelf shelf_;
  Loop loop_;
  AuditWriter::Check check_;
  std::uint32_t next_serial_ = 1;
  std::string alarm_;
  std::unique_ptr<AuditLanes> lanes_;
};

std::uint64_t AuditLanesTest::ticks_of(pid_t pid) {
  std::FILE* f = std::fopen(("/proc/" + std::to_string(pid) + "/stat").c_str(), "r");
  char text[1024] = {};
  const std::size_t n = std::fread(text, 1, sizeof text - 1, f);
  std::fclose(f);
  return start_ticks_of({text, n});
}

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
