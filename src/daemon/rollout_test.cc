#include "daemon/rollout.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "wire/parse.h"

namespace bulkhead::daemon {
namespace {

using Json = nlohmann::json;
using policy::RolloutState;

// A node of one tenant, `t`, whose counts the test sets.
struct World {
  std::map<std::string, std::uint32_t> modes{{"t", 0}};
  AuditCounts counts;
  std::uint64_t broken = 0, told = 0, in_log = ~0ull;
  std::vector<Json> log;
  std::vector<wire::EventKind> events;
  std::string here, state, set_problem;
  bool die_before_set = false;
  Now now{1'000'000'000, 0, 1'700'000'000'000'000'000};
  std::function<void(const std::string&, std::uint32_t)> before;

  World() { counts.region = 7; }
  RolloutsOutside outside() {
    RolloutsOutside o;
    o.post = [this](wire::EventKind k, const std::string&, const EventFields&) {
      events.push_back(k);
    };
    o.record = [this](const std::string& json) {
      log.push_back(Json::parse(json));
      EXPECT_EQ(log.back().dump(), json);
      return ++told;
    };
    o.recorded = [this] { return std::min(told, in_log); };
    o.keep_here = [this](const std::string& json) { here = json; };
    o.keep_state = [this](const std::string& json) { state = json; };
    o.counts = [this](const std::string& tenant, AuditCounts& out) {
      out = counts;
      return tenant == "t";
    };
    o.lanes = [](const std::string&) { return 3u; };
    o.broken = [this] { return broken; };
    o.set_mode = [this](const std::string& tenant, std::uint32_t mode) {
      if (!set_problem.empty()) return set_problem;
      if (die_before_set) return std::string{};
      before(tenant, mode);
      modes[tenant] = mode;
      return std::string{};
    };
    o.modes = [this] { return modes; };
    return o;
  }
  void pass(std::uint64_t ms) {
    now.mono_ns += ms * 1'000'000;
    now.unix_ns += static_cast<std::int64_t>(ms) * 1'000'000;
  }
  [[nodiscard]] std::vector<std::string> steps() const {
    std::vector<std::string> out;
    for (const Json& j : log) {
      if (j["record"] == "rollout") out.push_back(j["step"]);
    }
    return out;
  }
};

// Every change of mode that a rollout made has its step in the log, before it. The check that the broken variant below fails.
std::string unexplained(const std::vector<Json>& log) {
  std::string step_to;
  for (const Json& j : log) {
    if (j["record"] == "rollout" && (j["step"] == "moved" || j["step"] == "fell-back"))
      step_to = j["mode"];
    if (j["record"] != "mode" || j["by"] != "rollout") continue;
    if (step_to != j["mode"]) return "mode " + j["mode"].get<std::string>() + " without its step";
    if (j["why"].get<std::string>().empty()) return "a mode without a reason";
    step_to.clear();
  }
  return "";
}

template <class R = Rollouts>
struct Node {
  explicit Node(World& w) : world(w), rollouts(w.outside()) {
    world.before = [this](const std::string& tenant, std::uint32_t mode) {
      rollouts.before_mode(tenant, mode, nullptr, world.now);
    };
    rollouts.start(world.here, world.state, world.now);
  }
  Answer begin(std::uint32_t target = 2, std::uint64_t watch_ms = 1000) {
    wire::RolloutRequest q{};
    wire::put_text(q.name, "t");
    q.target = static_cast<wire::AuditMode>(target);
    q.watch_ms = watch_ms;
    q.flags = wire::kAbortOnGap;
    q.p99_ns = 1'000'000;
    q.refusals = 10;
    return rollouts.request({}, q, world.now);
  }
  void tick(std::uint64_t ms) {
    world.pass(ms);
    (void)rollouts.tick(world.now);
  }
  World& world;
  R rollouts;
};

TEST(Rollouts, WatchesEachModeAndArrives) {
  World w;
  Node<> n{w};
  ASSERT_TRUE(n.begin().ok());
  EXPECT_EQ(w.modes["t"], 1u);  // off needs no watch
  Now turn = w.now;             // of the turn in which the request came: older than the request's
  turn.mono_ns -= 1'000'000;
  (void)n.rollouts.tick(turn);
  EXPECT_EQ(w.modes["t"], 1u);
  n.tick(999);
  EXPECT_EQ(w.modes["t"], 1u);
  n.tick(1);
  EXPECT_EQ(w.modes["t"], 2u);
  n.tick(999);
  EXPECT_EQ(n.rollouts.kept().rollouts.at("t").state, RolloutState::kRunning);
  n.tick(1);
  EXPECT_EQ(n.rollouts.kept().rollouts.at("t").state, RolloutState::kDone);
  EXPECT_EQ(w.modes["t"], 2u);
  EXPECT_EQ(w.steps(), (std::vector<std::string>{"began", "moved", "moved", "done"}));
  EXPECT_EQ(unexplained(w.log), "");
}

TEST(Rollouts, FallsBackOneModeAndSaysWhy) {
  World w;
  Node<> n{w};
  ASSERT_TRUE(n.begin().ok());
  n.tick(1000);
  ASSERT_EQ(w.modes["t"], 2u);
  w.counts.totals.classes[1].missed_calls = 3;
  w.counts.totals.classes[1].missed_bytes = 4096;
  n.tick(10);
  EXPECT_EQ(w.modes["t"], 1u);
  EXPECT_EQ(n.rollouts.kept().rollouts.at("t").state, RolloutState::kFellBack);
  EXPECT_EQ(w.steps().back(), "fell-back");
  EXPECT_EQ(w.log.back()["record"], "mode");
  EXPECT_EQ(w.log.back()["why"], "gap: 3 calls, 4096 bytes without an entry");
  EXPECT_EQ(unexplained(w.log), "");
  EXPECT_EQ(std::count(w.events.begin(), w.events.end(), wire::EventKind::kRolloutFellBack), 1);
  n.tick(100'000);  // and stays there
  EXPECT_EQ(w.modes["t"], 1u);
  ASSERT_TRUE(n.begin().ok());  // another try begins at what is there now
  EXPECT_EQ(n.rollouts.kept().rollouts.at("t").state, RolloutState::kRunning);
}

TEST(Rollouts, ABreachOfTheP99OfWhatCameSinceTheStep) {
  World w;
  w.counts.totals.held[shm::held_bucket(50'000'000)] = 1'000;  // of before: not its business
  Node<> n{w};
  ASSERT_TRUE(n.begin().ok());
  w.counts.totals.held[0] = 10'000;
  n.tick(10);
  EXPECT_EQ(n.rollouts.kept().rollouts.at("t").state, RolloutState::kRunning);
  w.counts.totals.held[shm::held_bucket(3'000'000)] = 99;  // less than one in a hundred
  n.tick(10);
  EXPECT_EQ(n.rollouts.kept().rollouts.at("t").state, RolloutState::kRunning);
  w.counts.totals.held[shm::held_bucket(3'000'000)] = 200;
  n.tick(10);
  EXPECT_EQ(n.rollouts.kept().rollouts.at("t").state, RolloutState::kFellBack);
  EXPECT_EQ(w.modes["t"], 0u);
}

// The daemon is killed while it watches: the next one goes on, watches anew, and sees what happened while there was none.
TEST(Rollouts, TheNextDaemonGoesOn) {
  World w;
  {
    Node<> n{w};
    ASSERT_TRUE(n.begin().ok());
    n.tick(900);
  }
  w.pass(500);
  Node<> next{w};
  next.tick(999);
  EXPECT_EQ(w.modes["t"], 1u) << "time that nobody watched counted";
  next.tick(1);
  EXPECT_EQ(w.modes["t"], 2u);
  w.counts.totals.classes[2].missed_calls = 1;
  Node<> third{w};
  third.tick(1);
  EXPECT_EQ(w.modes["t"], 1u);
  EXPECT_EQ(unexplained(w.log), "");
}

// Killed between the record and the mode: the next one finishes the step.
TEST(Rollouts, AStepThatWasBegunIsFinished) {
  World w;
  w.die_before_set = true;
  std::string kept;
  {
    Node<> n{w};
    wire::RolloutRequest unused{};
    (void)unused;
    RolloutsOutside o = w.outside();
    std::string first;
    o.set_mode = [&](const std::string&, std::uint32_t) {
      kept = w.here;  // what lies there when the daemon dies now
      return std::string{};
    };
    Rollouts dying{std::move(o)};
    dying.start("", "", w.now);
    wire::RolloutRequest q{};
    wire::put_text(q.name, "t");
    q.target = wire::AuditMode::kEnforce;
    q.watch_ms = 1000;
    ASSERT_TRUE(dying.request({}, q, w.now).ok());
  }
  ASSERT_NE(kept.find("\"moving\":1"), std::string::npos);
  EXPECT_EQ(w.modes["t"], 0u);
  w.here = w.state = kept;
  w.die_before_set = false;
  Node<> next{w};
  EXPECT_EQ(w.modes["t"], 1u);
  next.tick(1000);
  EXPECT_EQ(w.modes["t"], 2u);
}

TEST(Rollouts, AHandAtTheModeEndsIt) {
  World w;
  Node<> n{w};
  ASSERT_TRUE(n.begin().ok());
  Peer root;
  root.uid = 0;
  n.rollouts.before_mode("t", 0, &root, w.now);
  w.modes["t"] = 0;
  EXPECT_EQ(n.rollouts.kept().rollouts.at("t").state, RolloutState::kStopped);
  n.tick(5000);
  EXPECT_EQ(w.modes["t"], 0u);
  EXPECT_EQ(w.steps().back(), "stopped");
}

TEST(Rollouts, CountsThatBeganAnewEndIt) {
  World w;
  Node<> n{w};
  ASSERT_TRUE(n.begin().ok());
  w.counts.region = 8;
  n.tick(10);
  EXPECT_EQ(n.rollouts.kept().rollouts.at("t").state, RolloutState::kFellBack);
}

// What no lane took is told until the log has it; a restart between may tell it twice, never not at all.
TEST(Rollouts, WhatHadNoLaneIsToldToTheLog) {
  World w;
  w.modes["t"] = 1;
  w.in_log = 0;
  const auto told = [&w] {
    std::uint64_t sum = 0;
    for (const Json& j : w.log) sum += j["record"] == "gap" ? j["count"].get<std::uint64_t>() : 0;
    return sum;
  };
  {
    Node<> n{w};
    w.counts.totals.no_lane_calls = 5;
    n.tick(1000);
    EXPECT_EQ(told(), 5u);
    n.tick(1000);
    EXPECT_EQ(told(), 5u);
  }
  {
    Node<> n{w};
    n.tick(1000);
    EXPECT_EQ(told(), 10u);
    w.in_log = ~0ull;
    n.tick(1000);
    w.counts.totals.no_lane_calls = 6;
    n.tick(1000);
    EXPECT_EQ(told(), 11u);
    n.tick(1000);
  }
  Node<> n{w};
  n.tick(1000);
  EXPECT_EQ(told(), 11u);
}

// The broken variant: it falls back and tells nobody.
class Silent final : public Rollouts {
 public:
  using Rollouts::Rollouts;

 protected:
  void tell(const std::string& tenant, const char* step, const Rollout& r, wire::EventKind kind,
            const Now& now) override {
    if (kind != wire::EventKind::kRolloutFellBack) Rollouts::tell(tenant, step, r, kind, now);
  }
};

TEST(RolloutsBroken, AFallBackThatIsNotLoggedIsCaught) {
  World w;
  Node<Silent> n{w};
  ASSERT_TRUE(n.begin().ok());
  n.tick(1000);
  w.counts.totals.classes[1].missed_calls = 3;
  n.tick(10);
  ASSERT_EQ(w.modes["t"], 1u);
  EXPECT_NE(unexplained(w.log), "");
}

TEST(Rollouts, RefusesWhatMakesNoSense) {
  World w;
  Node<> n{w};
  w.modes["t"] = 2;
  EXPECT_EQ(n.begin(2).result, Errc::kInvalid);
  w.modes["t"] = 0;
  ASSERT_TRUE(n.begin(2).ok());
  EXPECT_EQ(n.begin(2).result, Errc::kExists);
  KeptRollouts kept;
  EXPECT_TRUE(from_json(w.here, kept));
  for (const char* bad : {"", "{}", "[]", "{\"schema\":2,\"rollouts\":{},\"told\":{}}",
                          "{\"rollouts\":{\"t\":{}},\"schema\":1,\"told\":{}}"}) {
    EXPECT_FALSE(from_json(bad, kept)) << bad;
  }
}

TEST(Rollouts, ReadsTheServicesFigure) {
  char name[] = "/tmp/bulkhead-figure-XXXXXX";
  const int fd = ::mkstemp(name);
  ASSERT_GE(fd, 0);
  const auto put = [&](const std::string& text) {
    ASSERT_EQ(::ftruncate(fd, 0), 0);
    ASSERT_EQ(::pwrite(fd, text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  };
  struct stat st {};
  ASSERT_EQ(::fstat(fd, &st), 0);
  std::int64_t now = st.st_mtim.tv_sec * 1'000'000'000;
  std::uint64_t ns = 0;
  put("0.42\n");
  EXPECT_TRUE(read_service_figure(name, now, ns));
  EXPECT_EQ(ns, 420'000u);
  EXPECT_FALSE(read_service_figure(name, now + 100'000'000'000, ns));  // old
  for (const char* bad : {"", "x", "-1\n", "nan\n", "1 ms\n"}) {
    put(bad);
    EXPECT_FALSE(read_service_figure(name, now, ns)) << bad;
  }
  ::close(fd);
  ::unlink(name);
  EXPECT_FALSE(read_service_figure(name, now, ns));
}

}  // namespace
}  // namespace bulkhead::daemon
