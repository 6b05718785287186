// The daemon's sentinel on the simulated driver: real processes, NVML's view of them, /proc.
#include "daemon/sentinel.h"

#include <poll.h>

#include "base/clock.h"
#include "tests/sim/machine.h"

namespace bulkhead::test {
namespace {

using daemon::Looker;
using daemon::Now;
using daemon::Round;

class SentinelOnSim : public Machine {
 protected:
  daemon::SentinelOptions options() {
    daemon::SentinelOptions o;
    o.nvml_directory = BH_SIM;
    o.simulator_state = dir_ + "/sim";
    return o;
  }
  static Now now() {
    return {monotonic_ns(), boottime_ns(), static_cast<std::int64_t>(clock_ns(CLOCK_REALTIME))};
  }
  static const policy::SeenProcess* find(const Round& round, pid_t pid) {
    for (const auto& p : round.seen.processes) {
      if (p.pid == static_cast<std::uint32_t>(pid)) return &p;
    }
    return nullptr;
  }
};

// One that holds 100 MiB until it is told to go.
void hold(Child& parent) {
  start();
  CUdeviceptr p = 0;
  EXPECT_EQ(CU(cuMemAlloc_v2)(&p, 100 * kMiB), CUDA_SUCCESS);
  parent.say();
  parent.hear();
}

TEST_F(SentinelOnSim, SeesAProcessItsMemoryAndItsEnd) {
  Child child{hold};
  ASSERT_TRUE(child.hear());
  Child watcher{[&](Child& parent) {
    Looker looker{options()};
    Round round = looker.look(now());
    EXPECT_TRUE(round.nvml) << round.problem;
    EXPECT_TRUE(round.seen.uses_known);
    ASSERT_EQ(round.devices.size(), 1u);
    EXPECT_FALSE(round.devices[0].gpu_time_known);  // no time between two rounds yet
    ASSERT_EQ(round.seen.uses.size(), 1u);
    EXPECT_EQ(round.seen.uses[0].pid, static_cast<std::uint32_t>(child.pid()));
    EXPECT_EQ(round.seen.uses[0].bytes, kContext + 100 * kMiB);
    EXPECT_EQ(round.seen.uses[0].device, round.devices[0].uuid);
    const auto* p = find(round, child.pid());
    ASSERT_NE(p, nullptr);
    EXPECT_EQ(p->uid, geteuid());
    EXPECT_FALSE(p->exe.empty());
    for (int i = 0; i < 100 && !p->holds_node; ++i) {  // a bounded number of processes a round
      round = looker.look(now());
      p = find(round, child.pid());
      ASSERT_NE(p, nullptr);
    }
    EXPECT_TRUE(p->holds_node);
    round = looker.look(now());
    EXPECT_TRUE(round.devices[0].gpu_time_known);
    parent.say();
    parent.hear();
    round = looker.look(now());
    EXPECT_TRUE(round.seen.uses.empty());
    EXPECT_EQ(find(round, child.pid()), nullptr);
  }};
  ASSERT_TRUE(watcher.hear());
  child.end(SIGKILL);
  watcher.say();
  EXPECT_EQ(watcher.end(), 0);
}

TEST_F(SentinelOnSim, TheRulesFindTheUnregisteredOne) {
  Child child{hold};
  ASSERT_TRUE(child.hear());
  run([&] {
    Looker looker{options()};
    policy::BypassRules rules;
    rules.own_pid = static_cast<std::uint32_t>(getpid());
    policy::Bypass bypass{rules};
    (void)bypass.look(looker.look(now()).seen, {});
    const auto second = bypass.look(looker.look(now()).seen, {});
    ASSERT_EQ(second.changes.size(), 1u);  // not this process, which has NVML open too
    EXPECT_EQ(second.changes[0].second.process.pid, static_cast<std::uint32_t>(child.pid()));
    EXPECT_EQ(second.changes[0].second.kind, policy::StrayKind::kUnregistered);
  });
}

TEST_F(SentinelOnSim, InstancesOfASplitGpuAreDevices) {
  setenv("BULKHEAD_SIM", "h200-mig", 1);
  run([&] {
    Looker looker{options()};
    const Round round = looker.look(now());
    EXPECT_TRUE(round.nvml) << round.problem;
    EXPECT_GT(round.devices.size(), 1u);
    for (const auto& d : round.devices) EXPECT_FALSE(d.gpu_time_known);
  });
}

TEST_F(SentinelOnSim, TheThreadHandsRoundsOver) {
  run([&] {
    auto o = options();
    o.period_ms = 1;
    const auto sentinel = daemon::Sentinel::start(o);
    std::uint64_t last = 0;
    for (int i = 0; i < 5; ++i) {
      pollfd ready{sentinel->ready_fd(), POLLIN, 0};
      ASSERT_EQ(poll(&ready, 1, 60'000), 1);
      const auto round = sentinel->take();
      ASSERT_TRUE(round.has_value());
      EXPECT_GT(round->number, last);
      last = round->number;
    }
  });
}

TEST_F(SentinelOnSim, ARoundThatIsAskedForBeginsAfterwards) {
  run([&] {
    auto o = options();
    o.period_ms = 3'600'000;
    const auto sentinel = daemon::Sentinel::start(o);
    for (std::uint64_t number = 1; number <= 3; ++number) {
      pollfd ready{sentinel->ready_fd(), POLLIN, 0};
      ASSERT_EQ(poll(&ready, 1, 60'000), 1);
      const auto round = sentinel->take();
      ASSERT_TRUE(round.has_value());
      EXPECT_EQ(round->number, number);
      const std::uint64_t asked_ns = monotonic_ns();
      sentinel->ask();
      pollfd again{sentinel->ready_fd(), POLLIN, 0};
      ASSERT_EQ(poll(&again, 1, 60'000), 1);
      const auto next = sentinel->take();
      ASSERT_TRUE(next.has_value());
      EXPECT_GE(next->mono_ns, asked_ns);
      ++number;
      sentinel->ask();
    }
  });
}

TEST_F(SentinelOnSim, WithoutNvmlItSaysWhy) {
  run([&] {
    auto o = options();
    o.nvml_directory = "/nonexistent";
    Looker looker{o};
    const Round round = looker.look(now());
    EXPECT_FALSE(round.nvml);
    EXPECT_FALSE(round.seen.uses_known);
    EXPECT_FALSE(round.problem.empty());
  });
}

}  // namespace
}  // namespace bulkhead::test
