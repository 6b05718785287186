// Contexts of several processes on one timed device.
#include "tests/sim/timed.h"

#include <cmath>

namespace bulkhead::test {
namespace {

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
      EXPECT_TRUE(std::fabs(ms - cost) < 0.001 || std::fabs(ms - cost - turn) < 0.001) << ms;
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

// More nodes than a stream has room for: a launch comes back at once all the same, as kernels of one size that follow
// each other are one entry. It would hang here otherwise, behind a kernel of an hour.
TEST_F(SimTimed, AGraphsLaunchDoesNotWaitForItsNodes) {
  run([] {
    start();
    const CUfunction f = kernel("bh_spin");
    const CUstream s = stream();
    CUgraph g = nullptr;
    CUgraphExec exec = nullptr;
    ASSERT_EQ(CU(cuStreamBeginCapture_v2)(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL), CUDA_SUCCESS);
    for (int i = 0; i < 3000; ++i) EXPECT_EQ(spin(f, kUs, s), CUDA_SUCCESS);
    ASSERT_EQ(CU(cuStreamEndCapture)(s, &g), CUDA_SUCCESS);
    ASSERT_EQ(CU(cuGraphInstantiateWithFlags)(&exec, g, 0), CUDA_SUCCESS);
    EXPECT_EQ(spin(f, kHour, s), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuGraphLaunch)(exec, s), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuStreamQuery)(s), CUDA_ERROR_NOT_READY);
  });
}

TEST_F(SimTimed, APersistentKernelRunsUntilItIsTold) {
  run([] {
    start();
    void* host = nullptr;
    ASSERT_EQ(CU(cuMemHostAlloc)(&host, 4096, 0), CUDA_SUCCESS);
    auto* word = static_cast<std::uint32_t*>(host);
    *word = 0;
    void* args[] = {&host};
    const CUstream s = stream();
    EXPECT_EQ(
        CU(cuLaunchKernel)(kernel("bh_persist"), kWhole, 1, 1, 1024, 1, 1, 0, s, args, nullptr),
        CUDA_SUCCESS);
    Books books;
    ASSERT_TRUE(reached([&] {
      books.read();
      return books.of(getpid())->busy_ns >= 20 * kMs;
    }));
    EXPECT_EQ(CU(cuStreamQuery)(s), CUDA_ERROR_NOT_READY);
    *word = 1;
    EXPECT_EQ(CU(cuStreamSynchronize)(s), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuStreamQuery)(s), CUDA_SUCCESS);
  });
}

// Processes die at any moment, also while they hold the timeline's lock; the books stay whole.
TEST_F(SimTimed, TheBooksAreWholeWhoeverDiesWhenever) {
  unsigned seed = static_cast<unsigned>(getpid());
  SCOPED_TRACE("seed " + std::to_string(seed));
  for (int round = 0; round < 4; ++round) {
    std::vector<std::unique_ptr<Child>> all;
    for (int i = 0; i < 5; ++i) {
      all.push_back(std::make_unique<Child>([](Child& me) {
        start();
        const CUfunction f = kernel("bh_spin");
        const CUstream s = stream();
        me.say();
        for (;;) {
          CUevent e = record(s);
          EXPECT_EQ(spin(f, 20 * kUs, s), CUDA_SUCCESS);
          EXPECT_EQ(CU(cuStreamQuery)(s) == CUDA_ERROR_INVALID_HANDLE, false);
          EXPECT_EQ(CU(cuEventDestroy_v2)(e), CUDA_SUCCESS);
        }
      }));
    }
    for (const auto& c : all) ASSERT_TRUE(c->hear());
    for (const auto& c : all) {
      const timespec t{0, static_cast<long>(rand_r(&seed) % 5'000'000)};
      nanosleep(&t, nullptr);
      c->end(SIGKILL);
    }
  }
  run([] {
    start();  // joining looks at every context
    Books books;
    books.read();
    EXPECT_EQ(books.unit().gone_busy_ns, books.unit().busy_ns);
    EXPECT_GT(books.unit().busy_ns, 0u);
    const std::uint64_t before = books.unit().busy_ns;
    EXPECT_EQ(spin(kernel("bh_spin"), kMs), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuCtxSynchronize)(), CUDA_SUCCESS);
    books.read();
    EXPECT_EQ(books.unit().busy_ns - before, kMs + kLaunchNs);
    EXPECT_EQ(books.unit().engine[0] + books.unit().engine[1] + books.unit().engine[2], 0u);
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

}  // namespace
}  // namespace bulkhead::test
