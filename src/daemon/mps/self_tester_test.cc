#include "daemon/mps/self_tester.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace bulkhead::daemon {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;

class SelfTesting : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/bulkhead-selftester-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
    std::ofstream{dir_ + "/bulkhead"}
        << "#!/bin/sh\necho \"$@\" >>\"$OUT\"\n[ ! -e \"$OUT.fail\" ]\n";
    std::filesystem::permissions(dir_ + "/bulkhead", std::filesystem::perms::owner_all);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  SelfTester tester() {
    SelfTester::Outside o;
    o.program = dir_ + "/bulkhead";
    o.wanted = [this] { return wanted_; };
    o.idle = [this] { return idle_; };
    o.mps_control = [this] { return mps_ ? std::string{"control"} : std::string{}; };
    o.ended = [this](bool ok) { ended_ += ok ? "+" : "-"; };
    o.environment = {"PATH=/usr/bin:/bin", "OUT=" + dir_ + "/out"};
    return SelfTester{std::move(o)};
  }
  void seconds(SelfTester& t, unsigned n) {
    for (unsigned i = 0; i < n; ++i) {
      now_.mono_ns += kSecond;
      (void)t.tick(now_);
    }
  }
  void finish(SelfTester& t) {
    for (int i = 0; i < 60'000 && t.running(); ++i) {
      ::usleep(1000);
      (void)t.tick(now_);
    }
    ASSERT_FALSE(t.running());
  }
  std::string said() const {
    std::ifstream file{dir_ + "/out"};
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  std::string dir_, ended_;
  bool wanted_ = true, idle_ = true, mps_ = true;
  Now now_{1'000 * kSecond, 0, 0};
};

TEST_F(SelfTesting, OnlyWhileNobodyWasOnAGpuForTenSeconds) {
  SelfTester t = tester();
  seconds(t, 10);
  EXPECT_FALSE(t.running());
  idle_ = false;
  seconds(t, 1);
  idle_ = true;
  seconds(t, 10);
  EXPECT_FALSE(t.running());
  seconds(t, 1);
  EXPECT_TRUE(t.running());
  finish(t);
  EXPECT_EQ(said(), "doctor --self-test --json --mps-control control\n");
  EXPECT_EQ(ended_, "+");
}

TEST_F(SelfTesting, NotUnaskedAndWithoutConsentNotWithMps) {
  SelfTester t = tester();
  wanted_ = false;
  seconds(t, 60);
  EXPECT_FALSE(t.running());
  wanted_ = true;
  mps_ = false;
  seconds(t, 11);
  finish(t);
  EXPECT_EQ(said(), "doctor --self-test --json --no-mps\n");
}

TEST_F(SelfTesting, OneThatBroughtNothingIsNotTriedAgainAtOnce) {
  SelfTester t = tester();
  std::ofstream{dir_ + "/out.fail"} << "";
  seconds(t, 11);
  finish(t);
  EXPECT_EQ(ended_, "-");
  seconds(t, 599);
  EXPECT_FALSE(t.running());
  seconds(t, 13);
  finish(t);
  EXPECT_EQ(ended_, "--");
}

}  // namespace
}  // namespace bulkhead::daemon
