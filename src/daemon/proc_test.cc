#include "daemon/proc.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "daemon/test_proc.h"

namespace bulkhead::daemon {
namespace {

namespace fs = std::filesystem;

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

TEST(Proc, MajorsOfGpus) {
  FakeProc proc;
  std::ofstream{proc.path + "/devices"}
      << "Character devices:\n  1 mem\n195 nvidia-frontend\n505 nvidia-uvm\n506 nvidia-caps\n";
  EXPECT_EQ(gpu_majors(proc.path), (std::vector<unsigned>{195, 505}));
}

}  // namespace
}  // namespace bulkhead::daemon
