#include "daemon/proc.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/fd.h"

namespace bulkhead::daemon {
namespace {

namespace fs = std::filesystem;

// A /proc of files and links. /dev/null stands for a device node: its major is the one looked for.
class FakeProc {
 public:
  FakeProc() {
    char text[] = "/tmp/bh_proc_XXXXXX";
    path = ::mkdtemp(text);
    struct stat st {};
    ::stat("/dev/null", &st);
    options.root = path;
    options.majors = {major(st.st_rdev)};
  }
  ~FakeProc() { fs::remove_all(path); }
  FakeProc(const FakeProc&) = delete;
  FakeProc& operator=(const FakeProc&) = delete;

  void process(std::uint32_t pid, std::uint64_t start, const std::string& command = "a) (b") const {
    const fs::path at = fs::path{path} / std::to_string(pid);
    fs::create_directories(at / "fd");
    std::ofstream{at / "stat"} << pid << " (" << command << ") S 77 5 6 7 8 9 10 11 12 13 14 15 16 "
                               << "17 18 19 20 21 " << start << " 23 24\n";
    std::ofstream{at / "status"} << "Name:\tx\nUid:\t1\t2\t3\t4\nNSpid:\t" << pid << "\t1\n";
    fs::remove(at / "exe");
    fs::create_symlink("/usr/bin/prog", at / "exe");
  }
  void fd(std::uint32_t pid, int number, const char* to) const {
    fs::create_symlink(to, fs::path{path} / std::to_string(pid) / "fd" / std::to_string(number));
  }
  std::string path;
  ProcScanOptions options;
};

TEST(Proc, KnowsTheFileThatRuns) {
  const auto self = read_process("/proc", static_cast<std::uint32_t>(::getpid()));
  ASSERT_TRUE(self.has_value());
  struct stat st {};
  ASSERT_EQ(::stat(self->exe.c_str(), &st), 0);
  EXPECT_EQ(self->exe_id.second, st.st_ino);
  EXPECT_EQ(self->exe_id, file_id(self->exe));
  EXPECT_NE(self->exe_id, file_id("/dev/null"));
  EXPECT_EQ(file_id("/proc/self/none"), policy::FileId{});
}

TEST(Proc, ReadsAProcess) {
  FakeProc proc;
  proc.process(12, 345);
  const auto p = read_process(proc.path, 12);
  ASSERT_TRUE(p.has_value());
  EXPECT_EQ(p->command, "a) (b");
  EXPECT_EQ(p->parent_pid, 77u);
  EXPECT_EQ(p->start_ticks, 345u);
  EXPECT_EQ(p->uid, 2u);  // the effective one
  EXPECT_TRUE(p->nested);
  EXPECT_EQ(p->exe, "/usr/bin/prog");
  EXPECT_FALSE(read_process(proc.path, 13).has_value());
}

TEST(Proc, ReadsItself) {
  const auto p = read_process("/proc", static_cast<std::uint32_t>(::getpid()));
  ASSERT_TRUE(p.has_value());
  EXPECT_EQ(p->uid, ::geteuid());
  EXPECT_EQ(p->exe, fs::read_symlink("/proc/self/exe").string());
}

TEST(Proc, RubbishIsNoProcess) {
  FakeProc proc;
  fs::create_directories(proc.path + "/5");
  for (const char* text : {"", "5", "5 (x", "5 (x) S", "5 (x) S 1 2 3", ")(", "5 )x( S 1"}) {
    std::ofstream{proc.path + "/5/stat"} << text;
    EXPECT_FALSE(read_process(proc.path, 5).has_value()) << text;
  }
}

TEST(Proc, FindsWhoHoldsADevice) {
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

TEST(Proc, AHolderWhosePidWasReusedIsForgotten) {
  FakeProc proc;
  proc.process(1, 10);
  proc.fd(1, 0, "/dev/null");
  ProcScan scan{proc.options};
  ASSERT_EQ(scan.round().size(), 1u);
  proc.process(1, 11);
  fs::remove(proc.path + "/1/fd/0");
  EXPECT_TRUE(scan.round().empty());
}

TEST(Proc, ARoundIsBoundedAndASweepFindsAll) {
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
  scan.round();
  EXPECT_EQ(scan.sweeps(), 1u);
}

TEST(Proc, AProcessWithManyDescriptorsDoesNotEndTheRound) {
  FakeProc proc;
  proc.process(1, 10);
  for (int i = 0; i < 50; ++i) proc.fd(1, i, "/etc/hostname");
  proc.options.fds_a_round = 10;
  ProcScan scan{proc.options};
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(scan.round().empty());
  EXPECT_GE(scan.sweeps(), 1u);  // it does not stand before it for ever
}

TEST(Proc, TheSimulatorsStateStandsForADevice) {
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
  EXPECT_TRUE(scan.round().contains(self));
  ::munmap(at, 4096);
  EXPECT_FALSE(scan.round().contains(self));
}

TEST(Proc, MajorsOfGpus) {
  FakeProc proc;
  std::ofstream{proc.path + "/devices"}
      << "Character devices:\n  1 mem\n195 nvidia-frontend\n505 nvidia-uvm\n506 nvidia-caps\n";
  EXPECT_EQ(gpu_majors(proc.path), (std::vector<unsigned>{195, 505}));
}

}  // namespace
}  // namespace bulkhead::daemon
