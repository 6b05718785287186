// Who holds a device, found soon and cheaply. On a /proc of files, and on the real one with children of ours.
#include "daemon/proc_scan.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "daemon/test_proc.h"

namespace bulkhead::daemon {
namespace {

namespace fs = std::filesystem;

TEST(ProcScan, FindsWhoHoldsADevice) {
  FakeProc proc;
  proc.process(1, 10);
  proc.fd(1, 0, "/dev/null");
  proc.process(2, 20);
  proc.fd(2, 0, "socket:[5]");
  proc.fd(2, 1, "/etc/hostname");
  proc.process(3, 30);
  ProcScan scan{proc.options};
  EXPECT_EQ(scan.round(), (std::map<std::uint32_t, std::uint64_t>{{1, 10}}));
  fs::remove(proc.path + "/1/fd/0");
  EXPECT_TRUE(scan.round().empty());  // looked at again each round
}

TEST(ProcScan, AHolderWhosePidWasReusedIsForgotten) {
  FakeProc proc;
  proc.process(1, 10);
  proc.fd(1, 0, "/dev/null");
  ProcScan scan{proc.options};
  ASSERT_EQ(scan.round().size(), 1u);
  fs::rename(proc.path + "/1", proc.path + "/was");  // its inode is not another's yet
  proc.process(1, 11);
  EXPECT_TRUE(scan.round().empty());
}

TEST(ProcScan, AnotherProcessOfThePidIsLookedAtAtOnce) {
  FakeProc proc;
  proc.process(1, 10);
  ProcScan scan{proc.options};
  EXPECT_TRUE(scan.round().empty());
  fs::rename(proc.path + "/1", proc.path + "/was");
  proc.process(1, 11);
  proc.fd(1, 0, "/dev/null");
  EXPECT_EQ(scan.round(), (std::map<std::uint32_t, std::uint64_t>{{1, 11}}));
}

TEST(ProcScan, WhomTheDriverTellsOfIsNotLookedAt) {
  FakeProc proc;
  proc.process(1, 10);
  proc.fd(1, 0, "/dev/null");
  proc.process(2, 20);
  proc.fd(2, 0, "/dev/null");
  ProcScan scan{proc.options};
  EXPECT_EQ(scan.round({1, 2}).size(), 0u);
  EXPECT_EQ(scan.looks(), 0u);
  EXPECT_EQ(scan.round({2}), (std::map<std::uint32_t, std::uint64_t>{{1, 10}}));  // not any more
  EXPECT_EQ(scan.round({1, 2}).size(), 0u);
}

TEST(ProcScan, DescriptorsBeyondALookAreSeenLater) {
  FakeProc proc;
  proc.process(1, 10);
  for (int i = 0; i < 50; ++i) proc.fd(1, i, "/etc/hostname");
  proc.process(2, 20);
  proc.fd(2, 0, "/dev/null");
  proc.options.fds_a_look = 10;
  ProcScan scan{proc.options};
  EXPECT_EQ(scan.round(),
            (std::map<std::uint32_t, std::uint64_t>{{2, 20}}));  // nobody hides others
  for (int i = 0; i < 10; ++i) EXPECT_EQ(scan.round().size(), 1u);
}

TEST(ProcScan, ARoundIsBoundedAndASweepFindsAll) {
  FakeProc proc;
  for (std::uint32_t pid = 1; pid <= 100; ++pid) {
    proc.process(pid, pid);
    if (pid % 2 == 0) proc.fd(pid, 0, "/dev/null");
  }
  proc.options.pids_a_round = 10;
  ProcScan scan{proc.options};
  std::size_t before = 0;
  for (int i = 0; i < 10; ++i) {
    const std::size_t now = scan.round().size();
    EXPECT_LE(now, before + 10);
    before = now;
  }
  EXPECT_EQ(before, 50u);
  for (int i = 0; i < 11; ++i) scan.round();
  EXPECT_EQ(scan.sweeps(), 1u);
}

TEST(ProcScan, AProcessWithManyDescriptorsDoesNotEndTheRound) {
  FakeProc proc;
  proc.process(1, 10);
  for (int i = 0; i < 50; ++i) proc.fd(1, i, "/etc/hostname");
  proc.options.fds_a_round = 10;
  ProcScan scan{proc.options};
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(scan.round().empty());
  EXPECT_GE(scan.sweeps(), 1u);  // it does not stand before it for ever
}

TEST(ProcScan, TheSimulatorsStateStandsForADevice) {
  FakeProc sim;  // any folder
  const std::string file = sim.path + "/h200";
  std::ofstream{file} << std::string(4096, 'x');
  ProcScanOptions options;
  options.simulator = sim.path;
  options.pids_a_round = 1u << 20;
  ProcScan scan{options};
  const auto self = static_cast<std::uint32_t>(::getpid());
  EXPECT_FALSE(scan.round().contains(self));
  const UniqueFd fd{::open(file.c_str(), O_RDONLY | O_CLOEXEC)};
  void* at = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd.get(), 0);
  ASSERT_NE(at, MAP_FAILED);
  bool found = false;
  for (int i = 0; i < 3 && !found; ++i) found = scan.round().contains(self);
  EXPECT_TRUE(found);
  ::munmap(at, 4096);
  EXPECT_FALSE(scan.round().contains(self));
}

// A child without descriptors but ours, that does one thing at each byte and answers.
class Stepper {
 public:
  explicit Stepper(void (*what)(int)) {
    if (::pipe(to_) != 0 || ::pipe(from_) != 0) std::abort();
    pid_ = ::fork();
    char c = 'r';
    if (pid_ != 0) {
      if (::read(from_[0], &c, 1) != 1) std::abort();  // it has closed them
      return;
    }
    for (int fd = 0; fd < 1024; ++fd) {
      if (fd != to_[0] && fd != from_[1]) ::close(fd);
    }
    (void)!::write(from_[1], &c, 1);
    for (int i = 0; ::read(to_[0], &c, 1) == 1; ++i) {
      what(i);
      if (::write(from_[1], &c, 1) != 1) break;
    }
    ::_exit(0);
  }
  ~Stepper() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    for (const int fd : {to_[0], to_[1], from_[0], from_[1]}) ::close(fd);
  }
  Stepper(const Stepper&) = delete;
  Stepper& operator=(const Stepper&) = delete;
  void step() {
    char c = 's';
    ASSERT_EQ(::write(to_[1], &c, 1), 1);
    ASSERT_EQ(::read(from_[0], &c, 1), 1);
  }
  [[nodiscard]] std::uint32_t pid() const { return static_cast<std::uint32_t>(pid_); }

 private:
  int to_[2] = {}, from_[2] = {};
  pid_t pid_ = -1;
};

// Of the machine we run on; /dev/null stands for a device node.
ProcScanOptions real() {
  struct stat st {};
  ::stat("/dev/null", &st);
  ProcScanOptions options;
  options.majors = {major(st.st_rdev)};
  options.pids_a_round = options.marks_a_round = 1u << 20;
  options.fds_a_round = options.fds_a_look = 1u << 20;
  options.again_a_round = 0;
  return options;
}

bool counts_descriptors() {
  struct stat st {};
  return ::stat("/proc/self/fd", &st) == 0 && st.st_size != 0;
}

int opened = -1;
void open_then_close(int i) {
  if (i % 2 == 0) opened = ::open("/dev/null", O_RDONLY);
  if (i % 2 == 1) ::close(opened);
}
void open_in_place(int i) {
  if (i == 0) opened = ::open("/etc/passwd", O_RDONLY);
  if (i == 1) ::close(opened), ::open("/dev/null", O_RDONLY);
}

TEST(ProcScan, AnOldProcessThatOpensADeviceIsFoundByItsCount) {
  if (!counts_descriptors()) GTEST_SKIP() << "Linux before 6.2";
  Stepper child{open_then_close};
  ProcScan scan{real()};
  EXPECT_FALSE(scan.round().contains(child.pid()));
  child.step();
  const auto within_three = [&] {
    for (int i = 0; i < 3; ++i) {
      if (scan.round().contains(child.pid())) return true;
    }
    return false;
  };
  EXPECT_TRUE(within_three());
  child.step();
  EXPECT_FALSE(scan.round().contains(child.pid()));
  child.step();
  ProcScanOptions broken = real();  // nobody compares
  broken.marks_a_round = 0;
  ProcScan blind{broken};
  EXPECT_TRUE(blind.round().contains(child.pid()));  // new to it
  child.step();
  EXPECT_FALSE(blind.round().contains(child.pid()));
  child.step();
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(blind.round().contains(child.pid()));
}

TEST(ProcScan, WhoClosesAsManyAsItOpensIsFoundByTheSweep) {
  Stepper child{open_in_place};
  child.step();
  ProcScanOptions options = real();
  ProcScan blind{options};  // without a sweep
  options.again_a_round = 8;
  ProcScan scan{options};
  EXPECT_FALSE(scan.round().contains(child.pid()));
  (void)blind.round();
  child.step();
  for (int i = 0; counts_descriptors() && i < 3; ++i)
    EXPECT_FALSE(blind.round().contains(child.pid()));
  bool found = false;
  for (const std::uint64_t until = scan.sweeps() + 2; !found && scan.sweeps() < until;)
    found = scan.round().contains(child.pid());
  EXPECT_TRUE(found);
}

// The inode of /proc/PID is what tells two processes of one pid apart.
TEST(ProcScan, AReusedPidHasAnotherInode) {
  const UniqueFd last{::open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC)};
  if (!last.ok()) GTEST_SKIP() << "only root may choose pids";
  for (int tries = 0; tries < 200; ++tries) {
    ino_t inodes[2] = {};
    pid_t pids[2] = {};
    for (int i = 0; i < 2; ++i) {
      const std::string before = std::to_string(pids[0] - 1);
      if (i == 1 && ::pwrite(last.get(), before.data(), before.size(), 0) < 0)
        GTEST_SKIP() << "only root may choose pids";
      pids[i] = ::fork();
      if (pids[i] == 0) ::pause();
      const std::unique_ptr<DIR, int (*)(DIR*)> proc{::opendir("/proc"), ::closedir};
      while (const dirent* entry = ::readdir(proc.get())) {
        if (entry->d_name == std::to_string(pids[i])) inodes[i] = entry->d_ino;
      }
      ::kill(pids[i], SIGKILL);
      ::waitpid(pids[i], nullptr, 0);
    }
    if (pids[0] != pids[1]) continue;  // somebody else took it
    EXPECT_NE(inodes[0], 0u);
    EXPECT_NE(inodes[0], inodes[1]);
    return;
  }
  GTEST_SKIP() << "no pid came again";
}

}  // namespace
}  // namespace bulkhead::daemon
