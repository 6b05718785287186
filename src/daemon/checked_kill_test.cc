#include "daemon/checked_kill.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <map>

#include "daemon/proc.h"

namespace bulkhead::daemon {
namespace {

using policy::BypassRules;
using policy::SeenProcess;

constexpr std::uint32_t kPid = 40;

SeenProcess stranger() {
  SeenProcess p;
  p.pid = kPid;
  p.uid = 1000;
  p.start_ticks = 7;
  p.exe = "/tmp/miner";
  return p;
}
SeenProcess innocent() {
  SeenProcess p = stranger();
  p.start_ticks = 8;
  return p;
}
BypassRules rules() {
  BypassRules r;
  r.own_pid = 999;
  r.kill = r.root_daemon = true;
  return r;
}

// One pid. Before step `reuse_at` its process ends and another gets the number.
class ReuseWorld final : public KillWorld {
 public:
  explicit ReuseWorld(int reuse_at) : reuse_at_(reuse_at) {}
  UniqueFd open_process(std::uint32_t pid) override {
    step();
    const int fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (pid == kPid) named_[fd] = now_;
    return UniqueFd{fd};
  }
  std::optional<SeenProcess> read(std::uint32_t) override {
    step();
    return now_;
  }
  int send_kill(int pidfd) override {
    step();
    if (named_[pidfd].start_ticks != now_.start_ticks) return ESRCH;  // it ended
    killed = named_[pidfd].start_ticks;
    return 0;
  }
  // kill(2): whoever has the number.
  void kill_number() {
    step();
    killed = now_.start_ticks;
  }
  std::uint64_t killed = 0;

 private:
  void step() {
    if (steps_++ == reuse_at_) now_ = innocent();
  }
  int reuse_at_;
  int steps_ = 0;
  SeenProcess now_ = stranger();
  std::map<int, SeenProcess> named_;
};

using Killer = std::function<void(ReuseWorld&)>;
// The number of moments at which reuse makes this way of killing hit the innocent.
int hits_of(const Killer& kill) {
  int hits = 0;
  for (int at = 0; at < 6; ++at) {
    ReuseWorld world{at};
    kill(world);
    if (world.killed == innocent().start_ticks) ++hits;
  }
  return hits;
}

TEST(CheckedKill, NeverHitsAnotherWheneverThePidIsReused) {
  EXPECT_EQ(hits_of([](ReuseWorld& w) { (void)checked_kill(w, stranger(), rules()); }), 0);
  ReuseWorld world{99};
  EXPECT_EQ(checked_kill(world, stranger(), rules()), KillOutcome::kKilled);
  EXPECT_EQ(world.killed, stranger().start_ticks);
}

// The ways that look right and are not; this test would be worth nothing if it did not catch them.
TEST(CheckedKill, BrokenWaysAreCaught) {
  // By the number, checked before.
  EXPECT_GT(hits_of([](ReuseWorld& w) {
              if (w.read(kPid)->start_ticks == stranger().start_ticks) w.kill_number();
            }),
            0);
  // Through a descriptor that was opened after the check.
  EXPECT_GT(hits_of([](ReuseWorld& w) {
              if (w.read(kPid)->start_ticks != stranger().start_ticks) return;
              const UniqueFd fd = w.open_process(kPid);
              (void)w.send_kill(fd.get());
            }),
            0);
  // Through a descriptor, without the check.
  EXPECT_GT(hits_of([](ReuseWorld& w) {
              const UniqueFd fd = w.open_process(kPid);
              (void)w.send_kill(fd.get());
            }),
            0);
}

class FixedWorld final : public KillWorld {
 public:
  UniqueFd open_process(std::uint32_t) override {
    return there ? UniqueFd{::open("/dev/null", O_RDONLY | O_CLOEXEC)} : UniqueFd{};
  }
  std::optional<SeenProcess> read(std::uint32_t) override { return now; }
  int send_kill(int) override {
    ++kills;
    return error_number;
  }
  bool there = true;
  std::optional<SeenProcess> now = stranger();
  int error_number = 0;
  int kills = 0;
};

TEST(CheckedKill, EverythingDecidedOnIsReadAgain) {
  const auto outcome = [](const std::function<void(FixedWorld&)>& change) {
    FixedWorld world;
    change(world);
    const KillOutcome out = checked_kill(world, stranger(), rules());
    EXPECT_EQ(world.kills != 0, out == KillOutcome::kKilled || out == KillOutcome::kFailed);
    return out;
  };
  EXPECT_EQ(outcome([](FixedWorld& w) { w.there = false; }), KillOutcome::kGone);
  EXPECT_EQ(outcome([](FixedWorld& w) { w.now.reset(); }), KillOutcome::kGone);
  EXPECT_EQ(outcome([](FixedWorld& w) { w.now->start_ticks = 8; }), KillOutcome::kAnother);
  EXPECT_EQ(outcome([](FixedWorld& w) { w.now->uid = 0; }), KillOutcome::kAnother);
  EXPECT_EQ(outcome([](FixedWorld& w) { w.now->exe = "/usr/bin/other"; }), KillOutcome::kAnother);
  EXPECT_EQ(outcome([](FixedWorld& w) { w.error_number = EPERM; }), KillOutcome::kFailed);
  EXPECT_EQ(outcome([](FixedWorld&) {}), KillOutcome::kKilled);
}

TEST(CheckedKill, TheRulesOfNowDecide) {
  FixedWorld world;
  BypassRules r = rules();
  r.allow_paths = {"/tmp/miner"};
  EXPECT_EQ(checked_kill(world, stranger(), r), KillOutcome::kNotAllowed);
  r = rules();
  r.kill = false;
  EXPECT_EQ(checked_kill(world, stranger(), r), KillOutcome::kNotAllowed);
  SeenProcess root = stranger();
  root.uid = 0;
  world.now = root;
  EXPECT_EQ(checked_kill(world, root, rules()), KillOutcome::kNotAllowed);
  EXPECT_EQ(world.kills, 0);
}

TEST(CheckedKill, TheRealKernel) {
  const pid_t child = ::fork();
  if (child == 0) {
    for (;;) ::pause();
  }
  auto seen = read_process("/proc", static_cast<std::uint32_t>(child));
  ASSERT_TRUE(seen.has_value());
  EXPECT_EQ(seen->uid, ::geteuid());
  EXPECT_EQ(seen->parent_pid, static_cast<std::uint32_t>(::getpid()));
  EXPECT_FALSE(seen->at_secure);
  SeenProcess wrong = *seen;
  wrong.uid = 12345;
  wrong.start_ticks += 1;
  EXPECT_EQ(checked_kill(real_kill_world(), wrong, rules()), KillOutcome::kAnother);
  EXPECT_EQ(::waitpid(child, nullptr, WNOHANG), 0);  // it lives
  if (seen->uid == 0) {  // root's is never killed, not even by this test
    EXPECT_EQ(checked_kill(real_kill_world(), *seen, rules()), KillOutcome::kNotAllowed);
    ::kill(child, SIGKILL);
  } else {
    EXPECT_EQ(checked_kill(real_kill_world(), *seen, rules()), KillOutcome::kKilled);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

// As root a process of another user can be made, so that the real kill is seen on every machine that runs tests as root.
TEST(CheckedKill, RootKillsAnotherUsersProcess) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to make another user's process";
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    if (::setuid(12345) != 0 || ::write(pipe[1], "x", 1) != 1) ::_exit(1);
    for (;;) ::pause();
  }
  char byte = 0;
  ASSERT_EQ(::read(pipe[0], &byte, 1), 1);
  const auto seen = read_process("/proc", static_cast<std::uint32_t>(child));
  ASSERT_TRUE(seen.has_value());
  EXPECT_EQ(seen->uid, 12345u);
  EXPECT_EQ(checked_kill(real_kill_world(), *seen, rules()), KillOutcome::kKilled);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  EXPECT_EQ(checked_kill(real_kill_world(), *seen, rules()), KillOutcome::kGone);
}

}  // namespace
}  // namespace bulkhead::daemon
