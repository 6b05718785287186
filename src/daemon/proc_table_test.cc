// What is kept of a process must not outlive the process, nor its program, nor its user.
#include "daemon/proc_table.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/proc.h"

namespace bulkhead::daemon {
namespace {

// Waits for a byte, then does `what`; then waits to be killed.
struct Child {
  template <class F>
  explicit Child(F what) {
    if (::pipe(go) != 0 || ::pipe(done) != 0) std::abort();
    pid = ::fork();
    if (pid != 0) return;
    char c = 0;
    if (::read(go[0], &c, 1) == 1) what();
    (void)!::write(done[1], "d", 1);
    for (;;) ::pause();
  }
  ~Child() {
    end();
    for (const int fd : {go[0], go[1], done[0], done[1]}) ::close(fd);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  void end() {
    if (pid <= 0) return;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    pid = -1;
  }
  void act() {
    char c = 'g';
    ASSERT_EQ(::write(go[1], &c, 1), 1);
    ASSERT_EQ(::read(done[0], &c, 1), 1);
  }
  [[nodiscard]] std::uint32_t id() const { return static_cast<std::uint32_t>(pid); }
  int go[2] = {}, done[2] = {};
  pid_t pid = -1;
};

const policy::SeenProcess* in_a_round(ProcTable& table, std::uint32_t pid) {
  table.begin_round();
  const auto* p = table.get(pid);
  table.end_round();
  return p;
}

TEST(ProcTable, ReadsAProcessOnceInEight) {
  Child child{[] {}};
  ProcTable table{"/proc"};
  const auto* p = in_a_round(table, child.id());
  ASSERT_NE(p, nullptr);
  const auto read = read_process("/proc", child.id());
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(p->start_ticks, read->start_ticks);
  EXPECT_EQ(p->exe_id, read->exe_id);
  EXPECT_EQ(p->parent_pid, static_cast<std::uint32_t>(::getpid()));
  const std::uint64_t before = table.reads();
  for (unsigned i = 0; i < 4 * ProcTable::kEvery; ++i)
    ASSERT_NE(in_a_round(table, child.id()), nullptr);
  EXPECT_EQ(table.reads(), before + 4);
}

TEST(ProcTable, AnEndIsSeenAtOnce) {
  Child child{[] {}};
  const std::uint32_t pid = child.id();
  ProcTable table{"/proc"};
  ASSERT_NE(in_a_round(table, pid), nullptr);
  child.end();
  EXPECT_EQ(in_a_round(table, pid), nullptr);
}

TEST(ProcTable, AnExecIsSeenAtOnce) {
  Child child{[] { ::execl("/bin/sleep", "sleep", "1000", nullptr); }};
  ProcTable table{"/proc"};
  const auto* p = in_a_round(table, child.id());
  ASSERT_NE(p, nullptr);
  const policy::FileId before = p->exe_id;
  const char go = 'g';
  ASSERT_EQ(::write(child.go[1], &go, 1), 1);
  policy::FileId after{};
  while ((after = file_id("/proc/" + std::to_string(child.pid) + "/exe")) == before)
    ::sched_yield();
  p = in_a_round(table, child.id());
  ASSERT_NE(p, nullptr);
  EXPECT_EQ(p->exe_id, after);
  EXPECT_NE(p->command, "proc_test");
}

TEST(ProcTable, AnotherUserIsSeenSoon) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  Child child{[] { (void)!::setuid(65534); }};
  ProcTable table{"/proc"};
  ASSERT_EQ(in_a_round(table, child.id())->uid, 0u);
  child.act();  // it is not dumpable now: its directory stays root's
  const policy::SeenProcess* p = nullptr;
  for (unsigned i = 0; i < ProcTable::kEvery; ++i) p = in_a_round(table, child.id());
  ASSERT_NE(p, nullptr);
  EXPECT_EQ(p->uid, 65534u);
}

}  // namespace
}  // namespace bulkhead::daemon
