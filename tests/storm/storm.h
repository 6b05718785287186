// For the storm tests: a tenant in a directory of its own, and children that run one function and are
// killed at a place the test names.
#pragma once
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "shm/quota.h"
#include "shm/slots.h"
#include "shm/tenant.h"

namespace bulkhead::shm {

inline constexpr std::uint64_t kMiB = 1ull << 20;

class StormDir {
 public:
  StormDir() {
    char name[] = "/dev/shm/bulkhead-storm-XXXXXX";
    char fallback[] = "/tmp/bulkhead-storm-XXXXXX";
    const char* made = ::mkdtemp(name);
    path_ = made != nullptr ? made : ::mkdtemp(fallback);
    DirOptions o;
    o.asked = path_.c_str();
    o.root_dir = "/nonexistent";
    o.euid = ::geteuid();
    Result<Dir> opened = open_dir(o);
    EXPECT_TRUE(opened.ok()) << opened.status().text();
    dir_ = std::move(*opened);
  }
  ~StormDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const Dir& get() const { return dir_; }
  Status create(const char* name, std::uint64_t limit, std::uint64_t total = 0) const {
    TenantSpec s;
    s.name = name;
    s.owner_uid = ::geteuid();
    s.device_count = 1;
    s.devices[0].uuid[0] = 1;
    s.devices[0].limit_bytes = limit;
    s.devices[0].total_bytes = total != 0 ? total : limit;
    Arithmetic sums;
    return create_tenant(dir_, s, sums);
  }

 private:
  std::string path_;
  Dir dir_;
};

// This process's seat in a tenant. Not to be moved once joined.
struct Guest {
  Tenant tenant;
  Member member;
  bool join_to(const Dir& dir, const char* name) {
    Result<Tenant> t = attach_tenant(dir, name);
    if (!t.ok()) return false;
    tenant = std::move(*t);
    return join(tenant, member).ok();
  }
  Region& region() { return tenant.region(); }
};

// Forks; the child runs `body` and exits 0 if it returns. A watchdog ends a child that hangs (SIGALRM), which
// no test takes for the death it asked for.
template <class Body>
pid_t spawn(const Body& body) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  ::alarm(60);
  body();
  ::_exit(0);
}
inline int wait_for(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}
inline bool was_killed(int status) { return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL; }

// Zeroed memory that children share with the test.
template <class T>
T* shared() {
  void* at = ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return new (at) T;
}

// What must be true after any death, once the dead were reaped: nothing is held but what `expected`
// says, and one process can take all the rest to the byte, and give it back.
inline void expect_whole(Guest& me, std::uint64_t expected) {
  Region& r = me.region();
  reap_dead(r, me.member.world, me.member.seat);
  EXPECT_EQ(held_bytes(r, 0), expected);
  const std::uint64_t rest = limit_bytes(r, 0) - expected;
  EXPECT_TRUE(charge(r, me.member.seat.slot, 0, rest));
  EXPECT_FALSE(charge(r, me.member.seat.slot, 0, 1));
  give_back(r, me.member.seat.slot, 0, rest);
  EXPECT_EQ(held_bytes(r, 0), expected);
}

inline unsigned storm_seconds(unsigned otherwise) {
  const char* text = std::getenv("BH_STORM_SECONDS");
  return text != nullptr ? static_cast<unsigned>(std::strtoul(text, nullptr, 10)) : otherwise;
}

}  // namespace bulkhead::shm
