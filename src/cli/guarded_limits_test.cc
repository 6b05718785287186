// A tenant that cuts its region short while its limit is set costs `bulkhead set` a line, not its life.
#include "cli/guarded_limits.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include <cstring>

#include "shm/quota.h"
#include "shm/test_directory.h"

namespace bulkhead::cli {
namespace {

constexpr std::uint64_t kMiB = 1u << 20;

class GuardedLimits : public shm::TenantTest {
 protected:
  Status set(shm::WriteLimits write) {
    shm::DeviceSpec device = spec("a", 32 * kMiB).devices[0];
    shm::Arithmetic sums;
    return shm::set_limits(d_, "a", &device, 1, false, sums, write);
  }
  void SetUp() override {
    shm::TenantTest::SetUp();
    d_ = dir();
    ASSERT_TRUE(create(d_, spec("a", 64 * kMiB)).ok());
  }
  shm::Dir d_;
};

// What the owner does between our reading and our writing.
void cut(shm::Tenant& tenant) { (void)!::ftruncate(tenant.descriptor(), 0); }

TEST_F(GuardedLimits, AreWritten) {
  EXPECT_TRUE(set(write_limits_guarded).ok());
  EXPECT_EQ(shm::limit_bytes(shm::snapshot_tenant(d_, "a")->region(), 0), 32 * kMiB);
}

TEST_F(GuardedLimits, ARegionCutShortIsAnError) {
  const Status cut_short = set([](shm::Tenant& tenant, const shm::LimitChange& change) noexcept {
    cut(tenant);
    return write_limits_guarded(tenant, change);
  });
  EXPECT_EQ(cut_short.code(), Errc::kCorrupt);
  EXPECT_FALSE(set(write_limits_guarded).ok());  // and its file is no region any more
}

// The broken variant: the same without the guard ends the process.
TEST_F(GuardedLimits, WithoutTheGuardItIsTheEnd) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGBUS, SIG_DFL);  // not a sanitizer's
    (void)set([](shm::Tenant& tenant, const shm::LimitChange& change) noexcept {
      cut(tenant);
      return shm::write_limits(tenant, change);
    });
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
}

}  // namespace
}  // namespace bulkhead::cli
