// The timed device between real processes. What is asserted is the model's own books, or the model's own time
// between two events; nothing asserts how fast this machine is.
#include "sim/timed.h"

#include <time.h>

#include <cstring>
#include <fstream>
#include <memory>
#include <vector>

#include "kernels/kernels.h"
#include "sim/state.h"
#include "tests/sim/machine.h"

namespace bulkhead::test {
namespace {

constexpr std::uint64_t kUs = 1000, kMs = 1000 * kUs, kHour = 3'600'000 * kMs;
constexpr std::uint64_t kLaunchNs = 2000;  // what any kernel of ours takes besides
constexpr unsigned kWhole = 264;           // blocks of 1,024 threads that fill 132 SMs

class SimTimed : public Machine {
 protected:
  void SetUp() override {
    Machine::SetUp();
    setenv("BULKHEAD_SIM_TIMED", "1", 1);
  }
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

CUfunction kernel(const char* name, const char* ptx = kernels::kPtx) {
  CUmodule module = nullptr;
  CUfunction f = nullptr;
  EXPECT_EQ(CU(cuModuleLoadData)(&module, ptx), CUDA_SUCCESS);
  EXPECT_EQ(CU(cuModuleGetFunction)(&f, module, name), CUDA_SUCCESS);
  return f;
}

CUresult spin(CUfunction f, std::uint64_t ns, CUstream s = nullptr, unsigned blocks = kWhole) {
  void* args[] = {&ns};
  return CU(cuLaunchKernel)(f, blocks, 1, 1, 1024, 1, 1, 0, s, args, nullptr);
}

CUstream stream() {
  CUstream s = nullptr;
  EXPECT_EQ(CU(cuStreamCreate)(&s, CU_STREAM_NON_BLOCKING), CUDA_SUCCESS);
  return s;
}
CUevent event(unsigned flags = 0) {
  CUevent e = nullptr;
  EXPECT_EQ(CU(cuEventCreate)(&e, flags), CUDA_SUCCESS);
  return e;
}
CUevent record(CUstream s) {
  CUevent e = event();
  EXPECT_EQ(CU(cuEventRecord)(e, s), CUDA_SUCCESS);
  return e;
}
double between(CUevent a, CUevent b) {
  float ms = -1;
  EXPECT_EQ(CU(cuEventSynchronize)(b), CUDA_SUCCESS);
  EXPECT_EQ(CU(cuEventElapsedTime)(&ms, a, b), CUDA_SUCCESS);
  return static_cast<double>(ms);
}

// Queues `work` behind a kernel that is still running when all of it is queued, however slow this machine is,
// so that what it takes does not depend on when each call came. `work` is done again if that failed.
template <class F>
void queued(CUfunction f, CUstream s, F work) {
  for (std::uint64_t ns = 50 * kMs;; ns *= 2) {
    ASSERT_LT(ns, 60'000 * kMs);
    const CUstream gate = stream();
    ASSERT_EQ(spin(f, ns, gate, 1), CUDA_SUCCESS);
    CUevent open = record(gate);
    ASSERT_EQ(CU(cuStreamWaitEvent)(s, open, 0), CUDA_SUCCESS);
    work();
    if (CU(cuEventQuery)(open) == CUDA_ERROR_NOT_READY) return;
    ASSERT_EQ(CU(cuCtxSynchronize)(), CUDA_SUCCESS);
  }
}

// The model's books.
struct Books {
  std::unique_ptr<sim::Timeline> line = std::make_unique<sim::Timeline>();
  void read() {
    ASSERT_EQ(sim::open_machine(), nullptr);
    ASSERT_EQ(sim::open_timed(true), nullptr);
    ASSERT_TRUE(sim::read_timeline(*line));
  }
  [[nodiscard]] const sim::TimedUnit& unit() const { return line->units[0]; }
  [[nodiscard]] const sim::TimedContext* of(pid_t pid) const {
    for (unsigned i = 0; i < line->contexts_high; ++i) {
      if (line->contexts[i].pid == static_cast<std::uint32_t>(pid)) return &line->contexts[i];
    }
    return nullptr;
  }
};

template <class F>
bool reached(F condition) {
  for (int i = 0; i < 60'000; ++i) {
    if (condition()) return true;
    const timespec t{0, 1'000'000};
    nanosleep(&t, nullptr);
  }
  return false;
}

// A tenant that says when it is there, launches when told to, says so, and ends when told to.
auto tenant(std::uint64_t ns, int times) {
  return [=](Child& me) {
    start();
    const CUfunction f = kernel("bh_spin");
    me.say();
    me.hear();
    for (int i = 0; i < times; ++i) EXPECT_EQ(spin(f, ns), CUDA_SUCCESS);
    me.say();
    me.hear();
  };
}

// In a process of its own, which may map the machine. `pids` have work; over `busy_ns` of the device they get
// equal parts of it.
void expect_equal_shares(const std::vector<pid_t>& pids, std::uint64_t busy_ns) {
  Books before, after;
  before.read();
  ASSERT_TRUE(reached([&] {
    after.read();
    return after.unit().busy_ns >= before.unit().busy_ns + busy_ns;
  }));
  const std::uint64_t busy = after.unit().busy_ns - before.unit().busy_ns;
  const std::uint64_t switching = after.unit().switch_ns - before.unit().switch_ns;
  EXPECT_EQ(busy + switching, after.line->clock_ns - before.line->clock_ns) << "never idle";
  std::uint64_t sum = 0;
  for (const pid_t pid : pids) {
    const std::uint64_t mine = after.of(pid)->busy_ns - before.of(pid)->busy_ns;
    sum += mine;
    EXPECT_NEAR(static_cast<double>(mine),
                static_cast<double>(busy) / static_cast<double>(pids.size()), 4.0 * kMs);
  }
  EXPECT_EQ(sum, busy) << "what the device did is what its contexts did";
}

void go(Child& c) {
  ASSERT_TRUE(c.hear());
  ASSERT_TRUE(c.say());
}

TEST_F(SimTimed, TwoProcessesShareTheDeviceEqually) {
  Child a{tenant(kHour, 1)}, b{tenant(kHour, 1)};
  go(a), go(b);
  ASSERT_TRUE(a.hear() && b.hear());
  run([&] { expect_equal_shares({a.pid(), b.pid()}, 100 * kMs); });
}

TEST_F(SimTimed, ThreeProcessesWithUnequalKernelsShareItEqually) {
  Child a{tenant(10 * kMs, 900)}, b{tenant(47 * kMs, 900)}, c{tenant(kHour, 1)};
  go(a), go(b), go(c);
  ASSERT_TRUE(a.hear() && b.hear() && c.hear());
  run([&] { expect_equal_shares({a.pid(), b.pid(), c.pid()}, 150 * kMs); });
}

TEST_F(SimTimed, EightProcessesShareItEqually) {
  std::vector<std::unique_ptr<Child>> all;
  std::vector<pid_t> pids;
  for (int i = 0; i < 8; ++i) all.push_back(std::make_unique<Child>(tenant(kHour, 1)));
  for (const auto& c : all) go(*c), pids.push_back(c->pid());
  for (const auto& c : all) ASSERT_TRUE(c->hear());
  run([&] { expect_equal_shares(pids, 160 * kMs); });
}

TEST_F(SimTimed, ContextsOfOneProcessTakeTurnsToo) {
  run([] {
    start();
    const CUfunction f = kernel("bh_spin");
    EXPECT_EQ(spin(f, kHour), CUDA_SUCCESS);
    CUcontext other = nullptr;
    ASSERT_EQ(CU(cuCtxCreate_v2)(&other, 0, 0), CUDA_SUCCESS);
    const CUfunction g = kernel("bh_spin");
    EXPECT_EQ(spin(g, 10 * kMs), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuCtxSynchronize)(), CUDA_SUCCESS);
    Books books;
    books.read();
    EXPECT_EQ(books.line->contexts[1].busy_ns, 10 * kMs + kLaunchNs);
    EXPECT_GE(books.unit().switches, 5u);
    EXPECT_GE(books.line->contexts[0].busy_ns, 8 * kMs);
  });
}

TEST_F(SimTimed, AKilledProcessLeavesTheDeviceAndTheOthersGoOn) {
  Child a{tenant(kHour, 1)};
  Child b{[](Child& me) {
    start();
    const CUfunction f = kernel("bh_spin");
    me.say();
    me.hear();
    EXPECT_EQ(spin(f, 300 * kMs), CUDA_SUCCESS);
    me.say();
    EXPECT_EQ(CU(cuCtxSynchronize)(), CUDA_SUCCESS);
    me.say();
    me.hear();
  }};
  go(a), go(b);
  ASSERT_TRUE(a.hear() && b.hear());
  const pid_t dead = a.pid();
  a.end(SIGKILL);
  ASSERT_TRUE(b.hear()) << "its kernel has ended";
  run([&] {
    Books books;
    ASSERT_TRUE(reached([&] {
      books.read();
      return books.of(dead) == nullptr;
    }));
    EXPECT_EQ(books.of(b.pid())->busy_ns, 300 * kMs + kLaunchNs);
    EXPECT_EQ(books.unit().gone_busy_ns + books.of(b.pid())->busy_ns, books.unit().busy_ns);
    const std::uint64_t busy = books.unit().busy_ns;
    const std::uint64_t then = books.line->clock_ns;
    ASSERT_TRUE(reached([&] {
      books.read();
      return books.line->clock_ns > then + 5 * kMs;
    }));
    EXPECT_EQ(books.unit().busy_ns, busy) << "nothing is left of it";
  });
}

TEST_F(SimTimed, AnEventPairReadsTheKernelsCostBesideAHog) {
  Child hog{tenant(kHour, 1)};
  go(hog);
  ASSERT_TRUE(hog.hear());
  run([] {
    start();
    const CUfunction f = kernel("bh_spin");
    const CUstream s = stream();
    for (const std::uint64_t us : {10u, 100u, 1000u}) {
      CUevent before = nullptr, after = nullptr;
      // The start of a slice: what was behind the gate has been waiting for the device.
      queued(f, s, [&] {
        before = record(s);
        EXPECT_EQ(spin(f, us * kUs, s), CUDA_SUCCESS);
        after = record(s);
      });
      const double ms = between(before, after), cost = static_cast<double>(us) / 1000 + 0.002;
      // The gate may end within a slice whose rest is too short: then one turn of the other is in it.
      const double turn = 2.0 + 2 * 0.18;
      EXPECT_TRUE(std::abs(ms - cost) < 0.001 || std::abs(ms - cost - turn) < 0.001) << ms;
    }
  });
}

TEST_F(SimTimed, KernelsOfOneContextRunSideBySide) {
  run([] {
    start();
    const CUfunction f = kernel("bh_spin");
    const CUstream s = stream(), joined = stream();
    std::vector<CUstream> all;
    for (int i = 0; i < 64; ++i) all.push_back(stream());
    CUevent before = nullptr, after = nullptr;
    queued(f, s, [&] {
      before = record(s);
      for (const CUstream one : all) {
        EXPECT_EQ(CU(cuStreamWaitEvent)(one, before, 0), CUDA_SUCCESS);
        EXPECT_EQ(spin(f, 20 * kMs, one, 4), CUDA_SUCCESS);  // two SMs each: 128 of 132
        CUevent end = record(one);
        EXPECT_EQ(CU(cuStreamWaitEvent)(joined, end, 0), CUDA_SUCCESS);
      }
      after = record(joined);
    });
    EXPECT_NEAR(between(before, after), 20.002, 0.001);
    queued(f, s, [&] {
      before = record(s);
      for (unsigned i = 0; i < 2; ++i) {
        EXPECT_EQ(CU(cuStreamWaitEvent)(all[i], before, 0), CUDA_SUCCESS);
        EXPECT_EQ(spin(f, 20 * kMs, all[i]), CUDA_SUCCESS);  // the whole device each
        EXPECT_EQ(CU(cuStreamWaitEvent)(joined, record(all[i]), 0), CUDA_SUCCESS);
      }
      after = record(joined);
    });
    EXPECT_NEAR(between(before, after), 40.004, 0.001);
  });
}

TEST_F(SimTimed, AGraphTakesWhatItsKernelsTake) {
  run([] {
    start();
    const CUfunction f = kernel("bh_spin");
    const CUstream s = stream();
    CUgraph g = nullptr;
    CUgraphExec exec = nullptr;
    ASSERT_EQ(CU(cuStreamBeginCapture_v2)(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), CUDA_SUCCESS);
    for (int i = 0; i < 10; ++i) EXPECT_EQ(spin(f, kMs, s), CUDA_SUCCESS);
    ASSERT_EQ(CU(cuStreamEndCapture)(s, &g), CUDA_SUCCESS);
    ASSERT_EQ(CU(cuGraphInstantiateWithFlags)(&exec, g, 0), CUDA_SUCCESS);
    CUevent before = nullptr, after = nullptr;
    queued(f, s, [&] {
      before = record(s);
      EXPECT_EQ(CU(cuGraphLaunch)(exec, s), CUDA_SUCCESS);
      EXPECT_EQ(CU(cuGraphLaunch)(exec, s), CUDA_SUCCESS);
      after = record(s);
    });
    EXPECT_NEAR(between(before, after), 20.040, 0.001);
  });
}

TEST_F(SimTimed, CopiesDoNotTakeTheSms) {
  setenv("BULKHEAD_SIM_BYTES", "off", 1);
  Child hog{tenant(kHour, 1)};
  go(hog);
  ASSERT_TRUE(hog.hear());
  run([] {
    start();
    const CUstream s = stream();
    CUdeviceptr d = 0;
    void* h = nullptr;
    ASSERT_EQ(CU(cuMemAlloc_v2)(&d, 500 * kMiB), CUDA_SUCCESS);
    ASSERT_EQ(CU(cuMemAllocHost_v2)(&h, 500 * kMiB), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemcpyHtoDAsync_v2)(d, h, 1 * kMiB, s), CUDA_SUCCESS);
    CUevent before = record(s);
    EXPECT_EQ(CU(cuMemcpyHtoDAsync_v2)(d, h, 500 * kMiB, s), CUDA_SUCCESS);
    CUevent after = record(s);
    EXPECT_GE(between(before, after), 10.48) << "50,000 bytes a us";
    Books books;
    books.read();
    EXPECT_EQ(books.of(getpid())->busy_ns, 0u);
    EXPECT_EQ(books.of(getpid())->copy_ns, books.unit().copy_ns[0]);
    EXPECT_EQ(books.unit().copy_ns[0], 2 * 1000 + 20'971 + 10'485'760u);
    EXPECT_EQ(books.unit().switches, 0u);
  });
}

TEST_F(SimTimed, ALaunchWaitsWhenTheStreamIsFull) {
  run([] {
    start();
    const CUfunction f = kernel("bh_spin"), nothing = kernel("bh_null");
    const auto fill = [&](CUstream s, std::uint64_t first_ns, unsigned more) {
      EXPECT_EQ(spin(f, first_ns, s, 1), CUDA_SUCCESS);
      for (unsigned i = 0; i < more; ++i) {
        EXPECT_EQ(CU(cuLaunchKernel)(nothing, 1, 1, 1, 1, 1, 1, 0, s, nullptr, nullptr),
                  CUDA_SUCCESS);
      }
    };
    const CUstream never = stream();
    fill(never, kHour, 1020);  // comes back: 1,021 fit
    EXPECT_EQ(CU(cuStreamQuery)(never), CUDA_ERROR_NOT_READY);
    timespec a{}, b{};
    clock_gettime(CLOCK_MONOTONIC, &a);
    fill(stream(), 400 * kMs, 1021);  // the last had to wait for the first
    clock_gettime(CLOCK_MONOTONIC, &b);
    EXPECT_GE((b.tv_sec - a.tv_sec) * 1'000'000'000 + b.tv_nsec - a.tv_nsec, 400'000'000);
  });
}

TEST_F(SimTimed, APtxMaySayWhatItsKernelsTake) {
  static constexpr char kText[] =
      ".version 7.0\n.target sm_70\n// bulkhead-sim-ns=70000\n"
      ".visible .entry plain() { ret; }\n.visible .entry own() { // bulkhead-sim-ns=1500000\n ret; "
      "}\n";
  run([] {
    start();
    const CUfunction f = kernel("bh_spin"), plain = kernel("plain", kText),
                     own = kernel("own", kText);
    const CUstream s = stream();
    CUevent e[3] = {};
    queued(f, s, [&] {
      e[0] = record(s);
      EXPECT_EQ(CU(cuLaunchKernel)(plain, 1, 1, 1, 1, 1, 1, 0, s, nullptr, nullptr), CUDA_SUCCESS);
      e[1] = record(s);
      EXPECT_EQ(CU(cuLaunchKernel)(own, 1, 1, 1, 1, 1, 1, 0, s, nullptr, nullptr), CUDA_SUCCESS);
      e[2] = record(s);
    });
    EXPECT_NEAR(between(e[0], e[1]), 0.07, 0.0001);
    EXPECT_NEAR(between(e[1], e[2]), 1.5, 0.0001);
  });
}

TEST_F(SimTimed, NvmlShowsTheModelsBusyTime) {
  Child busy{tenant(kHour, 1)};
  Child idle{[](Child& me) {
    start();
    me.say();
    me.hear();
  }};
  go(busy);
  ASSERT_TRUE(busy.hear() && idle.hear());
  unsetenv("BULKHEAD_SIM_TIMED");  // who looks need not be in timed mode
  run([&] {
    const auto percent = [](pid_t pid) {
      unsigned n = 16;
      nvmlProcessUtilizationSample_t all[16] = {};
      EXPECT_EQ(ML(nvmlDeviceGetProcessUtilization)(nvml_device(), all, &n, 0), NVML_SUCCESS);
      for (unsigned i = 0; i < n; ++i) {
        if (all[i].pid == static_cast<unsigned>(pid)) return all[i].smUtil;
      }
      return 1000u;
    };
    EXPECT_TRUE(reached([&] { return percent(busy.pid()) >= 80 && percent(busy.pid()) <= 100; }));
    EXPECT_EQ(percent(idle.pid()), 0u);
    nvmlUtilization_t whole{};
    EXPECT_TRUE(reached([&] {
      EXPECT_EQ(ML(nvmlDeviceGetUtilizationRates)(nvml_device(), &whole), NVML_SUCCESS);
      return whole.gpu >= 80;
    }));
  });
}

int sms() {
  int value = 0;
  EXPECT_EQ(CU(cuDeviceGetAttribute)(&value, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0),
            CUDA_SUCCESS);
  return value;
}

TEST_F(SimTimed, AnMpsClientSeesItsShareOfTheSms) {
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
  seen(2);
  use_mps("nonsense");
  seen(132);
  setenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "25", 1);
  setenv("CUDA_MPS_PIPE_DIRECTORY", "/tmp/no-server-here", 1);
  seen(132);
}

TEST_F(SimTimed, MpsClientsRunTogetherEachOnItsSms) {
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

TEST_F(SimTimed, AnMpsClientKilledInAKernelTakesTheOthersWithIt) {
  use_mps("50");
  Child a{waiting_client}, b{waiting_client};
  ASSERT_TRUE(a.hear() && b.hear());
  a.end(SIGKILL);
  expect_taken_down(b);
}

TEST_F(SimTimed, AFaultOfAnMpsClientTakesTheOthersWithItButNoStranger) {
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

TEST_F(SimTimed, AnMpsClientThatDiesIdleLeavesTheOthersAlone) {
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
