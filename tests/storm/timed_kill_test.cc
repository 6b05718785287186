// Kills a process at every point of a look at the simulated device's time, early and late: the books must be whole, and
// the next process must have the device. Needs the preset `kill`.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <string>

#include "base/kill_point.h"
#include "sim/state.h"
#include "sim/timed.h"

namespace bulkhead::sim {
namespace {

#ifdef BH_KILL_POINTS

constexpr const char* kPoints[] = {"sim.time.queues_moved", "sim.time.contexts_moved",
                                   "sim.time.units_moved",  "sim.time.advanced",
                                   "sim.time.current",      "sim.time.entry_written"};

struct Tenant {
  ContextRef context;
  QueueRef queue;
};

Tenant join() {
  Tenant t;
  if (open_machine() != nullptr || open_timed(true) != nullptr) ::_exit(1);
  if (!begin_timed_context(0, 0, 132, t.context)) ::_exit(2);
  if (!begin_queue(t.context, 0, 0, t.queue)) ::_exit(3);
  return t;
}

Ticket add(const Tenant& t, EntryKind kind, std::uint64_t ns) {
  Ticket at;
  std::uint64_t wake_ns = 0;
  if (push(t.queue, {ns, 0, 0, 132, kind, 0}, 1021, at, wake_ns) == Push::kGone) ::_exit(4);
  return at;
}

// Two contexts, so that there are slices, kernels and copies, some of which wait for room.
void work() {
  const Tenant a = join(), b = join();
  for (;;) {
    add(a, EntryKind::kKernel, 30'000);
    add(b, EntryKind::kKernel, 70'000);
    add(b, EntryKind::kFromHost, 5'000);
    static_cast<void>(passed(end_of(a.queue), nullptr));
  }
}

int in_child(const std::function<void()>& body) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    body();
    ::_exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  int status = -1;
  ::waitpid(pid, &status, 0);
  return status;
}

void expect_whole() {
  const Tenant t = join();  // looks at every context
  auto line = std::make_unique<Timeline>();
  ASSERT_TRUE(read_timeline(*line));
  const TimedUnit& u = line->units[0];
  EXPECT_EQ(u.gone_busy_ns, u.busy_ns) << "what the device did is what its contexts did";
  for (const std::uint32_t engine : u.engine) EXPECT_EQ(engine, 0u);
  const std::uint64_t before = u.busy_ns;
  const Ticket at = add(t, EntryKind::kKernel, 1'000'000);
  while (!passed(at, nullptr)) ::usleep(200);
  ASSERT_TRUE(read_timeline(*line));
  EXPECT_EQ(line->units[0].busy_ns, before + 1'000'000);
}

TEST(Storm, TimeIsWholeWhereverALookDies) {
  for (const char* point : kPoints) {
    for (const std::uint64_t nth : {1u, 2u, 40u, 900u}) {
      SCOPED_TRACE(std::string{point} + " #" + std::to_string(nth));
      char path[] = "/tmp/bulkhead-time-XXXXXX";
      ASSERT_NE(::mkdtemp(path), nullptr);
      ::setenv("BULKHEAD_DIR", path, 1);
      const int status = in_child([&] {
        arm_kill_point(point, nth);
        work();
      });
      EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
      EXPECT_EQ(in_child(expect_whole), 0);
      EXPECT_EQ(::system((std::string{"rm -rf "} + path).c_str()), 0);
    }
  }
}

#else
TEST(Storm, TimeIsWholeWhereverALookDies) { GTEST_SKIP() << "needs the preset `kill`"; }
#endif

}  // namespace
}  // namespace bulkhead::sim
