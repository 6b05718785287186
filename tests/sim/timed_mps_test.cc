// Clients of the simulated MPS server.
#include <fstream>

#include "tests/sim/timed.h"

namespace bulkhead::test {
namespace {

class SimMps : public SimTimed {
 protected:
  // A client of the simulated MPS server from here on, with so many percent.
  void use_mps(const char* percent) const {
    std::ofstream{dir_ + "/bulkhead-sim-mps"} << "";
    setenv("CUDA_MPS_PIPE_DIRECTORY", dir_.c_str(), 1);
    setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", percent, 1);
  }
  static void no_mps() {
    unsetenv("CUDA_MPS_PIPE_DIRECTORY");
    unsetenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE");
  }
};

int sms() {
  int value = 0;
  EXPECT_EQ(CU(cuDeviceGetAttribute)(&value, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0),
            CUDA_SUCCESS);
  return value;
}

TEST_F(SimMps, AnMpsClientSeesItsShareOfTheSms) {
  const auto seen = [](int expected) {
    run([=] {
      start();
      EXPECT_EQ(sms(), expected);
    });
  };
  use_mps("25");
  seen(32);
  use_mps("12.5");
  seen(16);
  use_mps("75");
  seen(98);
  use_mps("0.1");
  seen(8);  // the least that an H200 hands out
  use_mps("nonsense");
  seen(132);
  setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "25", 1);
  setenv("CUDA_MPS_PIPE_DIRECTORY", "/tmp/no-server-here", 1);
  seen(132);
}

TEST_F(SimMps, MpsClientsRunTogetherEachOnItsSms) {
  use_mps("25");
  Child a{tenant(kHour, 1)};
  use_mps("75");
  Child b{tenant(kHour, 1)};
  go(a), go(b);
  ASSERT_TRUE(a.hear() && b.hear());
  run([&] {
    Books before, after;
    before.read();
    ASSERT_TRUE(reached([&] {
      after.read();
      return after.unit().busy_ns > before.unit().busy_ns + 20 * kMs;
    }));
    const auto grew = [&](pid_t pid, auto field) {
      return after.of(pid)->*field - before.of(pid)->*field;
    };
    const std::uint64_t wall = after.line->clock_ns - before.line->clock_ns;
    EXPECT_EQ(after.unit().switches, 0u);
    for (const pid_t pid : {a.pid(), b.pid()})
      EXPECT_EQ(grew(pid, &sim::TimedContext::busy_ns), wall);
    EXPECT_EQ(grew(a.pid(), &sim::TimedContext::sm_ns), 32 * wall);
    EXPECT_EQ(grew(b.pid(), &sim::TimedContext::sm_ns), 98 * wall);
  });
}

// A client that waits for a kernel of an hour, and says how that ended.
void waiting_client(Child& me) {
  start();
  const CUfunction f = kernel("bh_spin");
  EXPECT_EQ(spin(f, kHour, nullptr, 8), CUDA_SUCCESS);
  me.say();
  const CUresult r = CU(cuCtxSynchronize)();
  me.say(static_cast<std::uint64_t>(r));
  CUdeviceptr p = 0;
  me.say(static_cast<std::uint64_t>(CU(cuMemAlloc_v2)(&p, 1)));
}

void expect_taken_down(Child& c) {
  std::uint64_t waited = 0, later = 0;
  ASSERT_TRUE(c.hear(&waited) && c.hear(&later));
  EXPECT_EQ(waited, static_cast<std::uint64_t>(CUDA_ERROR_ILLEGAL_ADDRESS));
  EXPECT_EQ(later, static_cast<std::uint64_t>(CUDA_ERROR_ILLEGAL_ADDRESS)) << "sticky";
}

TEST_F(SimMps, AnMpsClientKilledInAKernelTakesTheOthersWithIt) {
  use_mps("50");
  Child a{waiting_client}, b{waiting_client};
  ASSERT_TRUE(a.hear() && b.hear());
  a.end(SIGKILL);
  expect_taken_down(b);
}

TEST_F(SimMps, AFaultOfAnMpsClientTakesTheOthersWithItButNoStranger) {
  use_mps("50");
  Child b{waiting_client};
  no_mps();
  Child stranger{tenant(20 * kMs, 1)};
  use_mps("50");
  ASSERT_TRUE(b.hear());
  Child a{[](Child&) {
    start();
    EXPECT_EQ(
        CU(cuLaunchKernel)(kernel("bh_fault"), 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr),
        CUDA_SUCCESS);
    EXPECT_EQ(CU(cuCtxSynchronize)(), CUDA_ERROR_ILLEGAL_ADDRESS);
  }};
  expect_taken_down(b);
  EXPECT_EQ(a.end(), 0);
  go(stranger);
  ASSERT_TRUE(stranger.hear());
  run([&] {
    Books books;
    EXPECT_TRUE(reached([&] {
      books.read();
      return books.of(stranger.pid())->busy_ns == 20 * kMs + kLaunchNs;
    }));
  });
}

TEST_F(SimMps, AnMpsClientThatDiesIdleLeavesTheOthersAlone) {
  use_mps("50");
  Child a{tenant(kMs, 0)}, b{tenant(kHour, 1)};
  go(b);
  ASSERT_TRUE(b.hear() && a.hear());
  const pid_t dead = a.pid();
  a.end(SIGKILL);
  run([&] {
    start();  // joining looks at every context
    Books books;
    books.read();
    EXPECT_EQ(books.of(dead), nullptr);
    EXPECT_EQ(books.of(b.pid())->faulted, 0u);
    EXPECT_TRUE(books.of(b.pid())->busy_ns > 0);
  });
}

}  // namespace
}  // namespace bulkhead::test
