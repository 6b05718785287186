// For tests: a log and a keeper in memory that outlive the daemon's part, and a process with lanes.
#pragma once
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

#include "daemon/audit_lanes.h"
#include "daemon/loop.h"
#include "daemon/peer.h"
#include "wire/parse.h"

namespace bulkhead::daemon::test {

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
    if (!loaded_.empty()) outside.shim = [this](std::uint32_t) { return loaded_; };
    outside.enforced = [this](const std::string& tenant) { return tenant == enforced_; };
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
  std::string loaded_;    // what processes have loaded; "": nothing is signed
  std::string enforced_;  // the tenant that the ledger has under enforce
  std::unique_ptr<AuditLanes> lanes_;
};

inline std::uint64_t AuditLanesTest::ticks_of(pid_t pid) {
  std::FILE* f = std::fopen(("/proc/" + std::to_string(pid) + "/stat").c_str(), "r");
  char text[1024] = {};
  const std::size_t n = std::fread(text, 1, sizeof text - 1, f);
  std::fclose(f);
  return start_ticks_of({text, n});
}

}  // namespace bulkhead::daemon::test
