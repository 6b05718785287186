// For tests: the daemon's regions over a directory of their own, driven turn by turn, and processes of tenants.
#pragma once
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "daemon/loop.h"
#include "daemon/regions_impl.h"
#include "shm/quota.h"
#include "shm/test_directory.h"

namespace bulkhead::daemon {

inline constexpr std::uint64_t kMiB = 1ull << 20;

inline wire::TenantRecord record_of(const char* name, std::uint64_t limit_bytes,
                                    std::uint32_t flags = 0) {
  wire::TenantRecord r{};
  std::memcpy(r.name, name, std::strlen(name) + 1);
  r.owner_uid = ::geteuid();
  r.flags = flags;
  r.device_count = 1;
  r.devices[0].uuid[0] = 1;
  r.devices[0].memory_bytes = limit_bytes;
  return r;
}

// A process of a tenant: joins, charges, says so, and waits for its end. Killed with the object.
class TenantProcess {
 public:
  TenantProcess(const shm::Dir& dir, const char* name, std::uint64_t bytes) {
    int fds[2];
    EXPECT_EQ(::pipe2(fds, O_CLOEXEC), 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::alarm(120);
      live(dir, name, bytes, fds[1]);
    }
    ::close(fds[1]);
    char said = 0;
    EXPECT_EQ(::read(fds[0], &said, 1), 1);
    ::close(fds[0]);
    EXPECT_EQ(said, '+');
  }
  TenantProcess(const TenantProcess&) = delete;
  TenantProcess& operator=(const TenantProcess&) = delete;
  ~TenantProcess() { kill(); }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
  pid_t pid() const { return pid_; }

 private:
  [[noreturn]] static void live(const shm::Dir& dir, const char* name, std::uint64_t bytes,
                                int out) {
    static shm::Tenant tenant;
    static shm::Member member;
    Result<shm::Tenant> attached = shm::attach_tenant(dir, name);
    bool fine = attached.ok();
    if (fine) tenant = std::move(*attached);
    fine = fine && shm::join(tenant, member).ok() &&
           (bytes == 0 || shm::charge_or_reap(member, 0, bytes));
    (void)!::write(out, fine ? "+" : "-", 1);
    for (;;) ::pause();
  }
  pid_t pid_ = 0;
};

// bulkheadd's regions in this process. restart() is what a SIGKILL and a new start are to the shared state.
class RegionsTest : public shm::TenantTest {
 protected:
  void SetUp() override {
    shm::TenantTest::SetUp();
    d_ = dir();
    restart();
  }
  void TearDown() override {
    regions_.reset();
    loop_.reset();
    shm::TenantTest::TearDown();
  }
  void restart(std::function<Now()> clock = read_clocks) {
    regions_.reset();
    loop_ = std::make_unique<Loop>(std::move(clock));
    TenantRegions::Outside outside;
    outside.dir = &d_;
    outside.poller = &loop_->poller();
    outside.clock = [this] { return loop_->read_clock(); };
    outside.turn_began = [this] { return loop_->now(); };
    regions_ = std::make_unique<TenantRegions>(std::move(outside));
    regions_->on_news = [this](const RegionNews& n) { news_.push_back(n); };
    regions_->on_gone = [this](const std::string& name) { gone_.push_back(name); };
    regions_->on_found = [this](const wire::TenantRecord& r) {
      found_.push_back(r);
      return accept_;
    };
    const Status started = regions_->start(0);
    ASSERT_TRUE(started.ok()) << started.text();
    loop_->add(*regions_);
  }
  // Turns until `done`, or a watchdog.
  void until(const std::function<bool()>& done) {
    const std::uint64_t end_ns = monotonic_ns() + 30'000'000'000ull;
    while (!done()) {
      ASSERT_LT(monotonic_ns(), end_ns) << "it does not come";
      loop_->turn(20);
    }
  }
  wire::TenantView view(const char* name) {
    wire::TenantView v{};
    EXPECT_TRUE(regions_->view(name, v)) << name;
    return v;
  }
  // What any process would see in the region's file.
  std::uint64_t held_in_file(const char* name) {
    auto shot = shm::snapshot_tenant(d_, name);
    EXPECT_TRUE(shot.ok());
    return shot.ok() ? shm::held_bytes(shot->region(), 0) : 0;
  }
  std::uint64_t limit_in_file(const char* name) {
    auto shot = shm::snapshot_tenant(d_, name);
    EXPECT_TRUE(shot.ok());
    return shot.ok() ? shm::limit_bytes(shot->region(), 0) : 0;
  }
  Result<std::uint64_t> limit_in_page(const char* name) {
    auto page = shm::map_node(d_);
    EXPECT_TRUE(page.ok());
    const std::uint8_t uuid[shm::kUuidBytes] = {1};
    return shm::node_limit(*page->as<const shm::NodePage>(), name, uuid);
  }
  unsigned heard(wire::EventKind kind) const {
    unsigned n = 0;
    for (const RegionNews& it : news_) n += it.kind == kind ? 1 : 0;
    return n;
  }
  // The region as its owner may write it.
  Mapping own_region(const char* name) {
    const UniqueFd fd{::open(region_path(name).c_str(), O_RDWR | O_CLOEXEC)};
    void* const at =
        ::mmap(nullptr, sizeof(shm::Region), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    EXPECT_NE(at, MAP_FAILED);
    return Mapping{at, sizeof(shm::Region)};
  }

  const std::uint8_t uuid_[shm::kUuidBytes] = {1};
  shm::Dir d_;
  bool accept_ = true;
  std::vector<RegionNews> news_;
  std::vector<std::string> gone_;
  std::vector<wire::TenantRecord> found_;
  std::unique_ptr<Loop> loop_;
  std::unique_ptr<TenantRegions> regions_;
};

}  // namespace bulkhead::daemon
