// MPS control daemons as the control loop keeps them, with a control program of the test's own and a clock that the test moves.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "daemon/mps/manager.h"
#include "daemon/poller_epoll.h"

namespace bulkhead::daemon {
namespace {

namespace fs = std::filesystem;
using wire::EventKind;
constexpr std::uint64_t kSecond = 1'000'000'000;

// A control daemon is the file `up` in the pipe directory. HOME/WORD may hold what a command answers, "hang" to say nothing.
constexpr const char* kProgram = R"SH(#!/bin/sh
home=$(dirname "$CUDA_MPS_PIPE_DIRECTORY")
if [ "$1" = -d ]; then echo "-d" >>"$home/log.txt"; [ -e "$home/broken" ] && { echo "no device"; exit 1; }; touch "$home/up"; exit 0; fi
read -r word rest
[ -e "$home/up" ] || { echo "Cannot find MPS control daemon process"; exit 1; }
echo "$word $rest" >>"$home/log.txt"
[ "$(cat "$home/$word" 2>/dev/null)" = hang ] && exec sleep 600
cat "$home/$word" 2>/dev/null
[ "$word" = quit ] && rm "$home/up"
exit 0
)SH";

class Mps : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/bulkhead-mps-test-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
    std::ofstream{dir_ + "/control"} << kProgram;
    fs::permissions(dir_ + "/control", fs::perms::owner_all);
    manager_ = fresh();
  }
  void TearDown() override {
    manager_.reset();
    fs::remove_all(dir_);
  }
  std::unique_ptr<MpsManager> fresh() {
    MpsManager::Outside o;
    o.poller = &poller_;
    o.directory = dir_;
    o.own_uid = ::geteuid();
    o.in_force = [this] { return in_force_; };
    o.post = [this](const MpsKey&, EventKind kind, wire::Severity, const std::string& text) {
      events_.emplace_back(kind, text);
    };
    auto out = std::make_unique<MpsManager>(std::move(o));
    out->configure(true, dir_ + "/control");
    return out;
  }
  std::string home() const { return dir_ + "/mps/" + std::to_string(::geteuid()) + "/g"; }
  void put(const std::string& name, const std::string& text) {
    std::ofstream{home() + "/" + name} << text;
  }
  std::string log() const {
    std::ifstream file{home() + "/log.txt"};
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  long count(const std::string& line) const {
    std::istringstream in{log()};
    long n = 0;
    for (std::string one; std::getline(in, one);) n += one.starts_with(line) ? 1 : 0;
    return n;
  }
  bool told(EventKind kind, const std::string& part = "") const {
    return std::any_of(events_.begin(), events_.end(), [&](const auto& e) {
      return e.first == kind && e.second.find(part) != std::string::npos;
    });
  }
  // Turns of the loop. The clock stands still but for what the test adds: while nothing is under way, so that a machine that is slow
  // times nothing out; or always, for what hangs.
  enum class Clock { kBetween, kAlways };
  template <class F>
  bool until(F condition, std::uint64_t step_ns = 0, Clock clock = Clock::kBetween) {
    for (int i = 0; i < 60'000 && !condition(); ++i) {
      if (poller_.wait(1) > 0) poller_.dispatch();
      if (clock == Clock::kAlways || !manager_->running()) now_.mono_ns += step_ns;
      (void)manager_->tick(now_);
    }
    return condition();
  }
  bool serving() const { return manager_->serving(kKey); }

  const MpsKey kKey{"g", ::geteuid()};
  std::string dir_;
  EpollPoller poller_;
  std::map<MpsKey, bool> in_force_{{kKey, false}};
  std::vector<std::pair<EventKind, std::string>> events_;
  std::unique_ptr<MpsManager> manager_;
  Now now_{100 * kSecond, 100 * kSecond, 0};
};

TEST_F(Mps, IsStartedOnceAndFoundAgain) {
  ASSERT_TRUE(until([&] { return serving(); }));
  EXPECT_TRUE(told(EventKind::kMpsStarted));
  EXPECT_EQ(count("-d"), 1);
  struct stat st {};
  ASSERT_EQ(::stat((home() + "/pipe").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0700u);
  manager_ = fresh();  // as after a restart
  ASSERT_TRUE(until([&] { return serving(); }));
  EXPECT_TRUE(told(EventKind::kMpsAdopted));
  EXPECT_EQ(count("-d"), 1);
}

TEST_F(Mps, WhatIsLeftOfAnotherConfigurationIsEnded) {
  ASSERT_TRUE(until([&] { return serving(); }));
  in_force_.clear();
  manager_ = fresh();
  manager_->find_left();
  ASSERT_TRUE(until([&] { return told(EventKind::kMpsStopped); }, kSecond / 10));
  EXPECT_FALSE(fs::exists(home() + "/up"));
}

TEST_F(Mps, IsNotEndedWhileSomethingRunsInItNorStartedWithoutConsent) {
  ASSERT_TRUE(until([&] { return serving(); }));
  in_force_[kKey] = true;
  manager_->configure(false, dir_ + "/control");
  const long asked = count("get_server_list");
  ASSERT_TRUE(until([&] { return count("get_server_list") >= asked + 3; }, kSecond / 10));
  EXPECT_EQ(count("quit"), 0);
  in_force_[kKey] = false;
  ASSERT_TRUE(until([&] { return told(EventKind::kMpsStopped); }, kSecond / 10));
  const long starts = count("-d");
  for (int i = 0; i < 50; ++i) {  // a minute and more of turns
    now_.mono_ns += 2 * kSecond;
    if (poller_.wait(1) > 0) poller_.dispatch();
    (void)manager_->tick(now_);
  }
  EXPECT_EQ(count("-d"), starts);
}

TEST_F(Mps, OneThatIsSilentIsLeftAloneAndToldOnce) {
  ASSERT_TRUE(until([&] { return serving(); }));
  put("get_server_list", "hang");
  // the time passes only in the test: each command is given up after 10 s
  ASSERT_TRUE(until([&] { return manager_->silent(kKey); }, kSecond / 4, Clock::kAlways));
  EXPECT_TRUE(told(EventKind::kMpsFailed, "is silent"));
  EXPECT_FALSE(serving());
  EXPECT_EQ(count("-d"), 1);
  EXPECT_EQ(count("quit"), 0);
  const auto failures = std::count_if(events_.begin(), events_.end(), [](const auto& e) {
    return e.first == EventKind::kMpsFailed;
  });
  EXPECT_EQ(failures, 1);
  fs::remove(home() + "/get_server_list");
  ASSERT_TRUE(until([&] { return !manager_->running(); }, kSecond / 4, Clock::kAlways));
  ASSERT_TRUE(until([&] { return serving(); }, kSecond / 4));
  EXPECT_TRUE(told(EventKind::kMpsAdopted, "answers again"));
}

TEST_F(Mps, AStartThatFailsIsToldOnceAndTriedAgain) {
  fs::create_directories(home());
  put("broken", "");
  ASSERT_TRUE(until([&] { return count("-d") >= 3; }, kSecond / 10));
  EXPECT_TRUE(told(EventKind::kMpsFailed, "no device"));
  EXPECT_EQ(events_.size(), 1u);
  fs::remove(home() + "/broken");
  ASSERT_TRUE(until([&] { return serving(); }, kSecond / 10));
}

TEST_F(Mps, AServerInFaultIsTold) {
  ASSERT_TRUE(until([&] { return serving(); }));
  put("get_server_list", "  \n4711\n");
  put("get_server_status", "ACTIVE\n");
  ASSERT_TRUE(until([&] { return count("get_server_status 4711") >= 1; }, kSecond / 10));
  EXPECT_FALSE(told(EventKind::kMpsHit));
  manager_->noted_end(kKey, "process 12 of tenant a");
  put("get_server_status", "Fault\n");
  ASSERT_TRUE(until([&] { return told(EventKind::kMpsHit, "server 4711 is in state FAULT"); },
                    kSecond / 100));
  EXPECT_TRUE(told(EventKind::kMpsHit, "after the end of process 12 of tenant a"));
  const auto hits = [&] {
    return std::count_if(events_.begin(), events_.end(),
                         [](const auto& e) { return e.first == EventKind::kMpsHit; });
  };
  const long asked = count("get_server_status");
  ASSERT_TRUE(until([&] { return count("get_server_status") >= asked + 2; }, kSecond / 10));
  EXPECT_EQ(hits(), 1) << "once";
  in_force_[kKey] = true;
  put("get_server_list", "");
  ASSERT_TRUE(until([&] { return told(EventKind::kMpsHit, "is gone"); }, kSecond / 10));
}

TEST_F(Mps, AProcessIsTakenOutOfTheServerThatHasIt) {
  EXPECT_TRUE(manager_->evicted(7, 1)) << "nothing serves: nothing holds it";
  ASSERT_TRUE(until([&] { return serving(); }));
  put("get_server_list", "10\n20\n");
  put("get_client_list", "5\n77\n");
  EXPECT_FALSE(manager_->evicted(77, 1));
  ASSERT_TRUE(until([&] { return manager_->evicted(77, 1); }));
  EXPECT_EQ(count("terminate_client 10 77"), 1);
  EXPECT_TRUE(told(EventKind::kMpsTerminated, "client 77 was taken out"));
  EXPECT_FALSE(manager_->evicted(78, 1));
  ASSERT_TRUE(until([&] { return manager_->evicted(78, 1); })) << "it is in none";
  EXPECT_EQ(count("terminate_client"), 1);
  EXPECT_EQ(count("get_client_list 20"), 1);
  put("terminate_client", "hang");
  EXPECT_FALSE(manager_->evicted(5, 9));
  ASSERT_TRUE(until([&] { return count("terminate_client 10 5") == 1; }));
  ASSERT_TRUE(until([&] { return manager_->evicted(5, 9); }, kSecond / 4, Clock::kAlways))
      << "one that hangs holds up no kill";
  EXPECT_TRUE(told(EventKind::kMpsTerminated, "could not be taken out"));
}

TEST_F(Mps, WhatCannotBeSaysWhy) {
  EXPECT_EQ(manager_->problem(kKey), "");
  EXPECT_NE(manager_->problem({std::string(60, 'g'), 1}).find("shorter directory"),
            std::string::npos);
  manager_->configure(true, "nvidia-cuda-mps-control-that-is-not-there");
  EXPECT_NE(manager_->problem(kKey).find("install it"), std::string::npos);
  ASSERT_TRUE(until([&] { return told(EventKind::kMpsFailed, "install it"); }));
  EXPECT_EQ(log(), "");
}

TEST(MpsText, OnlyLinesOfAPidAreTaken) {
  EXPECT_EQ(pids_of("12\n 13\nServer 14\n15 \n\n16x\n-3\n0\n99999999999\n17"),
            (std::vector<std::uint32_t>{12, 15, 17}));
  EXPECT_TRUE(pids_of("").empty());
  EXPECT_EQ(status_of("\n active\n"), "ACTIVE");
  EXPECT_EQ(status_of("12"), "");
}

}  // namespace
}  // namespace bulkhead::daemon
