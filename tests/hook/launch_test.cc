// Launches under a compute share, on a device whose time the test advances. Each test runs in a child of its own, for a
// process binds once.
#include "tests/hook/launch_case.h"

namespace bulkhead::hook {
namespace {

TEST_F(ComputeTest, WithoutALimitNothingIsAdded) {
  in_child(0, [&] {
    const std::size_t before = threads();
    for (int i = 0; i < 100; ++i) EXPECT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    EXPECT_EQ(gpu.launches, 100);
    EXPECT_EQ(gpu.records + gpu.queries, 0);
    EXPECT_EQ(threads(), before);
    EXPECT_EQ(entry().tat_ns.load(), 0u);
    EXPECT_EQ(entry().launches.load(), 0u);
  });
}

TEST_F(ComputeTest, EachLaunchIsChargedOnceAndSettledByWhatItTook) {
  in_child(50, [&] {
    gpu.cost_ns[function(1)] = 3 * kMs;
    for (int i = 0; i < 10; ++i) {
      ASSERT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
      finish();
    }
    EXPECT_EQ(entry().launches.load(), 10u);
    EXPECT_NEAR(static_cast<double>(entry().used_ns.load()), 30.0 * kMs, 0.01 * kMs);
    EXPECT_NEAR(static_cast<double>(entry().longest_op_ns.load()), 3.0 * kMs, 0.01 * kMs);
    EXPECT_EQ(entry().rate_x100.load(), 5'000u);
  });
}

TEST_F(ComputeTest, WhatTheDriverRefusesIsNotCharged) {
  in_child(50, [&] {
    gpu.answer = CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    for (int i = 0; i < 5; ++i)
      EXPECT_EQ(launch(function(1), stream(1)), CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    EXPECT_LE(entry().tat_ns.load(), monotonic_ns());
    EXPECT_EQ(entry().launches.load(), 0u);
    EXPECT_EQ(entry().used_ns.load(), 0u);
    gpu.answer = CUDA_SUCCESS;
    gpu.cost_ns[function(1)] = kMs;
    EXPECT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    finish();
    EXPECT_NEAR(static_cast<double>(entry().used_ns.load()), 1.0 * kMs, 0.01 * kMs);
  });
}

TEST_F(ComputeTest, ACaptureIsLeftAlone) {
  in_child(50, [&] {
    ASSERT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);  // the thread runs
    finish();
    const int records = gpu.records;
    const std::uint64_t used = entry().used_ns.load(), launches = entry().launches.load();
    const std::uint64_t tat = entry().tat_ns.load();
    ASSERT_EQ(::cuStreamBeginCapture_v2(stream(1), CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_SUCCESS);
    EXPECT_EQ(captures.load(), 1u);
    shut();  // what only records must not wait either
    EXPECT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    EXPECT_EQ(entry().launches.load(), launches);
    EXPECT_EQ(entry().used_ns.load(), used);
    entry().tat_ns.store(tat, kRelaxed);
    // Beside it: charged, and no event while a question could end the capture.
    EXPECT_EQ(launch(function(1), stream(2)), CUDA_SUCCESS);
    EXPECT_EQ(entry().launches.load(), launches + 1);
    EXPECT_EQ(gpu.records, records);
    CUgraph graph{};
    EXPECT_EQ(::cuStreamEndCapture(stream(1), &graph), CUDA_SUCCESS);
    EXPECT_EQ(captures.load(), 0u);
    EXPECT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    EXPECT_GT(gpu.records, records);
  });
}

TEST_F(ComputeTest, OverItsShareALaunchWaits) {
  in_child(50, [&] {
    ASSERT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    finish();
    const std::uint64_t start = monotonic_ns();
    // a burst of 5 ms at 50 % is 10 ms of waiting
    entry().tat_ns.store(start + 60 * kMs, kRelaxed);
    ASSERT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    EXPECT_GE(monotonic_ns() - start, 50 * kMs);
    EXPECT_GE(entry().held_ns.load(), 40 * kMs);
    EXPECT_NE(entry().wanted_at_ns.load(), 0u);
  });
}

TEST_F(ComputeTest, AHostFunctionIsNeverHeld) {
  in_child(1, [&] {
    ASSERT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    finish();
    shut();
    const auto body = [](void* f) { *static_cast<CUresult*>(f) = launch(function(1), stream(2)); };
    CUresult inner = CUDA_ERROR_UNKNOWN;
    const std::uint64_t held = entry().held_ns.load();
    ASSERT_EQ(::cuLaunchHostFunc(stream(1), body, &inner), CUDA_SUCCESS);
    EXPECT_EQ(inner, CUDA_SUCCESS);
    EXPECT_EQ(entry().held_ns.load(), held);
    finish();
    EXPECT_EQ(entry().launches.load(), 2u);
  });
}

TEST_F(ComputeTest, ACollectiveIsNeverHeldAndPaysLater) {
  in_child(1, [&] {
    gpu.names[function(7)] =
        "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)";
    gpu.names[function(8)] = "_Z19ncclKernel_AllGather11ncclWorkArgs";
    ASSERT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    finish();
    shut();
    EXPECT_EQ(launch(function(7), stream(1)), CUDA_SUCCESS);
    EXPECT_EQ(launch(function(8), stream(1)), CUDA_SUCCESS);
    EXPECT_EQ(entry().held_ns.load(), 0u);
    finish();
    EXPECT_EQ(entry().launches.load(), 3u);
  });
}

TEST_F(ComputeTest, ALimitThatGoesLetsTheWaitingGo) {
  in_child(1, [&] {
    ASSERT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    finish();
    shut();
    entry().wanted_at_ns.store(0, kRelaxed);
    std::atomic<bool> done{false};
    std::thread waiter([&] {
      EXPECT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
      done = true;
    });
    eventually([] { return entry().wanted_at_ns.load(kRelaxed) != 0; });
    EXPECT_FALSE(done.load());
    limit(0);
    waiter.join();
    EXPECT_EQ(gpu.launches, 2);
    EXPECT_EQ(entry().launches.load(), 1u) << "it was let go, not waited out: nothing is charged";
  });
}

TEST_F(ComputeTest, AnotherLimitCountsFromTheNextLaunch) {
  in_child(50, [&] {
    ASSERT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    finish();
    const std::uint64_t now = monotonic_ns();
    entry().tat_ns.store(now + 600 * kMs, kRelaxed);
    limit(100);
    gpu.names[function(7)] = "ncclDevKernel_Generic";  // goes by the gate at once
    ASSERT_EQ(launch(function(7), stream(1)), CUDA_SUCCESS);
    EXPECT_EQ(entry().rate_x100.load(), 10'000u);
    EXPECT_LT(entry().tat_ns.load(), now + 400 * kMs) << "the same debt is half the waiting";
  });
}

TEST_F(ComputeTest, AStreamIsDestroyedWhileItRuns) {
  in_child(90, [&] {
    gpu.cost_ns[function(1)] = kMs;
    for (unsigned round = 0; round < 40; ++round) {
      ASSERT_EQ(launch(function(1), stream(round % 3)), CUDA_SUCCESS);
      ASSERT_EQ(::cuStreamDestroy_v2(stream(round % 3)), CUDA_SUCCESS);
      if (round % 2 == 0) finish();
    }
    finish();
    EXPECT_EQ(entry().launches.load(), 40u);
  });
}

TEST_F(ComputeTest, AContextTakesItsEventsAlong) {
  in_child(100, [&] {
    gpu.cost_ns[function(1)] = kMs;
    entry().window_us.store(1'000'000, kRelaxed);  // nobody waits for an end
    for (int round = 0; round < 10; ++round) {
      for (unsigned s = 1; s < 4; ++s) ASSERT_EQ(launch(function(1), stream(s)), CUDA_SUCCESS);
      ASSERT_EQ(launch(function(1), nullptr), CUDA_SUCCESS);
      {
        // what the driver does with a context's events when it goes
        const fake::Lock l{gpu.lock};
        fake::set(
            next.cuCtxDestroy_v2, +[](CUcontext) noexcept {
              const fake::Lock inner{gpu.lock};
              gpu.events.clear();
              return CUDA_SUCCESS;
            });
      }
      ASSERT_EQ(::cuCtxDestroy_v2(context_), CUDA_SUCCESS);
      EXPECT_EQ(compute.pending.load(), 0u);
      ASSERT_EQ(::cuCtxCreate_v2(&context_, 0, 0), CUDA_SUCCESS);
      gpu.context = context_;
    }
  });
}

TEST_F(ComputeTest, AForksChildBeginsAnew) {
  in_child(50, [&] {
    gpu.cost_ns[function(1)] = kMs;
    ASSERT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    finish();         // what runs here would go on paying while this process waits for its child
    gpu.lock.lock();  // the model's own, so that the child finds it free
    const pid_t child = ::fork();
    gpu.lock.unlock();
    if (child == 0) {
      bool good = !compute.started.load() && compute.pending.load() == 0 && !compute_limited();
      good = good && mode() == Mode::kOn && compute_limited();
      good = good && launch(function(1), stream(1)) == CUDA_SUCCESS && compute.started.load();
      fake::advance(1'000 * kMs);
      eventually([] { return compute.pending.load(kRelaxed) == 0; });
      std::_Exit(good && !HasFailure() ? 0 : 1);
    }
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(entry().launches.load(), 2u);
    ASSERT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    finish();
    EXPECT_EQ(entry().launches.load(), 3u);
  });
}

TEST_F(ComputeTest, AStormOfThreadsLosesNoLaunch) {
  in_child(100, [&] {
    gpu.cost_ns[function(1)] = 10'000;
    gpu.cost_ns[function(2)] = 300'000;
    gpu.runs = true;
    constexpr int kThreads = 16, kEach = 200;
    {
      std::vector<std::jthread> all;
      for (unsigned t = 0; t < kThreads; ++t) {
        all.emplace_back([t] {
          for (unsigned i = 0; i < kEach; ++i)
            EXPECT_EQ(launch(function(1 + i % 2), stream(1 + t % 4)), CUDA_SUCCESS);
        });
      }
    }
    finish();
    std::uint64_t open = 0;
    for (const StreamBook& b : compute.streams) open += b.cut.open == nullptr ? 0 : b.cut.open->ops;
    EXPECT_EQ(gpu.launches, kThreads * kEach);
    EXPECT_EQ(entry().launches.load() + open, std::uint64_t{kThreads} * kEach);
    EXPECT_EQ(compute.device[0].in_flight_ns.load(), 0u);
  });
}

TEST_F(ComputeTest, AnUpdatedGraphIsAnotherOperation) {
  in_child(50, [&] {
    const auto exec = reinterpret_cast<CUgraphExec>(std::uintptr_t{0x30000});
    const std::uint64_t before = graph_what(exec).key;
    EXPECT_EQ(graph_what(exec).key, before);
    ASSERT_EQ(::cuGraphExecUpdate_v2(exec, nullptr, nullptr), CUDA_SUCCESS);
    EXPECT_NE(graph_what(exec).key, before);
    ASSERT_EQ(::cuGraphLaunch(exec, stream(1)), CUDA_SUCCESS);
    finish();
    EXPECT_EQ(gpu.graphs, 1);
    EXPECT_EQ(entry().launches.load(), 1u);
    EXPECT_NEAR(static_cast<double>(entry().used_ns.load()), 1.0 * kMs, 0.01 * kMs);
  });
}

TEST_F(ComputeTest, AKernelThatNeverEndsPays) {
  in_child(50, [&] {
    gpu.cost_ns[function(1)] = 3'600'000 * kMs;
    ASSERT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    const std::uint64_t at_launch = entry().tat_ns.load();
    eventually([&] { return entry().tat_ns.load(kRelaxed) > at_launch + 20 * kMs; });
  });
}

TEST_F(ComputeTest, WhatAnEndlessKernelWaitsForIsLetThrough) {
  in_child(50, [&] {
    gpu.cost_ns[function(1)] = 3'600'000 * kMs;
    ASSERT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    eventually([] { return entry().tat_ns.load(kRelaxed) > monotonic_ns() + 50 * kMs; });
    ASSERT_EQ(launch(function(2), stream(2)), CUDA_SUCCESS);
    EXPECT_GT(entry().held_ns.load(), 0u);
  });
}

TEST_F(ComputeTest, AnUnknownKernelDoesNotFillTheQueue) {
  in_child(50, [&] {
    gpu.cost_ns[function(1)] = 1'000 * kMs;
    std::atomic<int> went{0};
    std::thread caller([&] {
      for (int i = 0; i < 8; ++i) {
        EXPECT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
        ++went;
      }
    });
    eventually([] { return entry().wanted_at_ns.load(kRelaxed) != 0; });
    eventually([&] { return went.load() >= 2; });
    EXPECT_LT(went.load(), 8);
    limit(0);
    caller.join();
  });
}

TEST_F(ComputeTest, UnderADebuggerNothingIsHeld) {
  setenv("CUDA_INJECTION64_PATH", "/opt/profiler.so", 1);
  in_child(1, [&] {
    ASSERT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    shut();
    ASSERT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    EXPECT_EQ(entry().held_ns.load(), 0u);
    finish();
    EXPECT_EQ(entry().launches.load(), 2u);
  });
  unsetenv("CUDA_INJECTION64_PATH");
}

// A page beside the region, as a daemon makes it: this tenant, and its device at `percent` of the time.
void publish_page(const std::string& dir, std::uint32_t percent, std::uint32_t window_us = 2'000) {
  auto page = std::make_unique<shm::NodePage>();
  const char* const tenant = process.tenant.get().name();
  std::uint8_t uuid[shm::kUuidBytes];
  std::memcpy(uuid, process.region->devices[0].uuid, sizeof uuid);
  ASSERT_TRUE(shm::set_node_limit(*page, tenant, uuid, 1u << 30).ok());
  shm::ComputeRules rules;
  rules.floor_x100 = rules.ceiling_x100 = percent * 100;
  rules.window_us = window_us;
  ASSERT_TRUE(shm::set_node_compute(*page, tenant, uuid, rules).ok());
  shm::format_node(*page, 0);
  const std::string path = dir + "/node";
  ::unlink(path.c_str());
  std::FILE* const f = std::fopen(path.c_str(), "w");
  ASSERT_NE(f, nullptr);
  EXPECT_EQ(std::fwrite(page.get(), sizeof *page, 1, f), 1u);
  EXPECT_EQ(std::fclose(f), 0);
  ASSERT_EQ(::chmod(path.c_str(), 0444), 0);
  shm::raise_adopted(*process.region);
  follow_node();
  compute_look();
}

// C7. What the region alone would give is tried, too: without the page the same words open the gate.
TEST_F(ComputeTest, WiderWordsInTheRegionGainNothing) {
  in_child(10, [&] {
    publish_page(dir_, 10);
    ASSERT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    finish();
    shm::ComputeEntry& e = entry();
    const auto scribble = [&e] {
      for (shm::AtomicU32* word : {&e.floor_x100, &e.ceiling_x100, &e.rate_x100})
        word->store(10'000, kRelaxed);
      e.burst_us.store(1'000'000, kRelaxed);
      e.window_us.store(1'000'000, kRelaxed);
      e.flags.store(shm::kComputeBorrow, kRelaxed);
      e.rules.fetch_add(1, kRelaxed);
    };
    scribble();
    const InForce& in = in_force(compute.device[0], e);
    EXPECT_EQ(in.rules.rate_x100, 1'000u);
    EXPECT_EQ(in.rules.burst_ns, 5 * kMs);
    EXPECT_EQ(in.window_ns, 2 * kMs);
    e.rate_x100.store(10'000, kRelaxed);  // and again, now that it was set back
    EXPECT_EQ(in_force(compute.device[0], e).rules.rate_x100, 1'000u);
    // No limit at all, by its own words: the first look is not at the region any more.
    e.floor_x100.store(0, kRelaxed);
    e.rules.fetch_add(1, kRelaxed);
    EXPECT_TRUE(compute_limited());
    const std::uint64_t held = e.held_ns.load(kRelaxed);
    e.tat_ns.store(monotonic_ns() + 200 * kMs, kRelaxed);
    ASSERT_EQ(launch(function(1), stream(1)), CUDA_SUCCESS);
    EXPECT_GT(e.held_ns.load(kRelaxed), held);
    finish();
    // Broken: the region's words alone.
    forget_node();
    scribble();
    compute_look();
    EXPECT_EQ(in_force(compute.device[0], e).rules.rate_x100, 10'000u);
    EXPECT_EQ(in_force(compute.device[0], e).window_ns, 1'000 * kMs);
  });
}

TEST_F(ComputeTest, TheNextDaemonsPageComesToTheSamePlace) {
  in_child(50, [&] {
    publish_page(dir_, 20);
    const shm::NodePage* const first = node_page();
    ASSERT_NE(first, nullptr);
    EXPECT_EQ(in_force(compute.device[0], entry()).limits.floor_x100, 2'000u);
    publish_page(dir_, 30);
    EXPECT_EQ(node_page(), first);
    EXPECT_EQ(in_force(compute.device[0], entry()).limits.floor_x100, 3'000u);
    // A limit below the page's stands: a tenant may ask for less.
    limit(10);
    EXPECT_EQ(in_force(compute.device[0], entry()).limits.floor_x100, 1'000u);
  });
}

}  // namespace
}  // namespace bulkhead::hook
