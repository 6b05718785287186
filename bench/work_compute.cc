// Workers of rows 1 (launches), 7, 8, 10 and 11: what a launch costs the caller, a load of kernels, and requests beside one.
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <vector>

#include "base/clock.h"
#include "bench/worker.h"
#include "kernels/kernels.h"

namespace bulkhead::bench {
namespace {

constexpr unsigned kBlocks = 132, kThreads = 128;  // a block on each SM of an H200
constexpr unsigned kEventNoTiming = 2;

void sleep_until_ns(std::uint64_t at) {
  const timespec t{static_cast<time_t>(at / 1'000'000'000), static_cast<long>(at % 1'000'000'000)};
  while (::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, nullptr) == EINTR) {
  }
}

struct Loader {
  explicit Loader(Worker& worker) : w(worker), cu(worker.cu) {}
  Worker& w;
  Api& cu;
  CUfunction work{}, null{};
  const bool cooperative = w.params.number("cooperative") != 0;

  // False: fail() has been called.
  bool open() {
    CUmodule module{};
    CUresult r = cu.cuModuleLoadData(&module, kernels::kPtx);
    if (r == CUDA_SUCCESS) r = cu.cuModuleGetFunction(&work, module, "bh_work");
    if (r == CUDA_SUCCESS) r = cu.cuModuleGetFunction(&null, module, "bh_null");
    if (r != CUDA_SUCCESS) return w.fail("the kernels' module", r), false;
    return true;
  }
  CUresult launch(std::uint64_t rounds) {
    std::uint64_t out = 0;
    void* args[] = {&rounds, &out};
    if (cooperative)
      return cu.cuLaunchCooperativeKernel(work, kBlocks, 1, 1, kThreads, 1, 1, 0, nullptr, args);
    return cu.cuLaunchKernel(work, kBlocks, 1, 1, kThreads, 1, 1, 0, nullptr, args, nullptr);
  }
  // ns that `n` kernels of so many rounds take one after the other.
  double timed(std::uint64_t rounds, unsigned n) {
    const std::uint64_t begin = monotonic_ns();
    for (unsigned i = 0; i < n; ++i) (void)launch(rounds);
    (void)cu.cuCtxSynchronize();
    return static_cast<double>(monotonic_ns() - begin);
  }
};

// A graph of `n` empty kernels, captured from a stream of its own.
CUresult make_graph(Loader& l, unsigned n, CUgraphExec* exec) {
  CUstream stream{};
  CUgraph graph{};
  CUresult r = l.cu.cuStreamCreate(&stream, 1);
  if (r == CUDA_SUCCESS)
    r = l.cu.cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
  for (unsigned i = 0; i < n && r == CUDA_SUCCESS; ++i)
    r = l.cu.cuLaunchKernel(l.null, 1, 1, 1, 32, 1, 1, 0, stream, nullptr, nullptr);
  if (r == CUDA_SUCCESS) r = l.cu.cuStreamEndCapture(stream, &graph);
  if (r == CUDA_SUCCESS) r = l.cu.cuGraphInstantiateWithFlags(exec, graph, 0);
  return r;
}

}  // namespace

// Submitting an empty kernel (graph=0) or a graph of 8 of them, 64 at a time and then waiting, so that the driver's queue is
// never full. Histogram 0: each call, in ticks. ns a call without a clock in between: value[0] the best of the spans of 64,
// value[1] the mean of them. In turns (worker.h); the log has the mean of each, in ps.
int work_launch(Worker& w) {
  if (!w.begin()) return 1;
  Loader l{w};
  if (!l.open()) return 1;
  CUgraphExec exec{};
  const bool graph = w.params.number("graph") != 0;
  if (graph)
    if (const CUresult r = make_graph(l, 8, &exec); r != CUDA_SUCCESS) return w.fail("a graph", r);
  auto once = [&] {
    return graph ? l.cu.cuGraphLaunch(exec, nullptr)
                 : l.cu.cuLaunchKernel(l.null, 1, 1, 1, 32, 1, 1, 0, nullptr, nullptr, nullptr);
  };
  constexpr unsigned kSpan = 64;
  const std::uint64_t spans = w.params.number("n", 20'000) / kSpan + 1;
  for (unsigned i = 0; i < 4 * kSpan; ++i)
    if (const CUresult r = once(); r != CUDA_SUCCESS) return w.fail("warm-up", r);
  (void)l.cu.cuCtxSynchronize();
  double best = INFINITY, sum = 0;
  std::uint64_t done = 0;
  const auto measure = [&](std::uint64_t n) {
    double round = 0;
    for (std::uint64_t s = 0; s < n; ++s) {
      for (unsigned i = 0; i < kSpan; ++i) {
        const std::uint64_t a = ticks();
        const CUresult r = once();
        w.out->histogram[0].add(ticks() - a);
        if (r != CUDA_SUCCESS) return w.fail("measured call", r), false;
      }
      (void)l.cu.cuCtxSynchronize();
      const std::uint64_t start = ticks();
      for (unsigned i = 0; i < kSpan; ++i) (void)once();
      const auto took = static_cast<double>(ticks() - start);
      best = std::min(best, took), round += took;
      (void)l.cu.cuCtxSynchronize();
    }
    w.log_round(round / static_cast<double>(n * kSpan) * ns_per_tick());
    sum += round, done += n;
    return true;
  };
  if (!w.take_turns(spans, measure)) return 1;
  w.out->value[0] = best / kSpan * ns_per_tick();
  w.out->value[1] = sum / static_cast<double>(done) / kSpan * ns_per_tick();
  return 0;
}

// Kernels of `rounds` (cooperative launches with cooperative=1) one after the other, two batches ahead of the GPU, for `ms`. The log holds a batch each: when it was
// done (CLOCK_MONOTONIC) and how many kernels it held. With calibrate=NS: finds the rounds of a kernel of NS first, with nobody
// else on the GPU; value[0] the rounds, value[1] the ns measured with them.
int work_load(Worker& w) {
  if (!w.begin()) return 1;
  Loader l{w};
  if (!l.open()) return 1;
  if (const std::uint64_t ns = w.params.number("calibrate"); ns != 0) {
    (void)l.timed(1000, 100);  // clocks up, code loaded
    std::uint64_t rounds = 100'000;
    for (int i = 0; i < 4; ++i) {
      const double one = l.timed(rounds, 20) / 20;
      rounds =
          static_cast<std::uint64_t>(static_cast<double>(rounds) * static_cast<double>(ns) / one) +
          1;
    }
    w.out->value[0] = static_cast<double>(rounds);
    w.out->value[1] = l.timed(rounds, 20) / 20;
    return 0;
  }
  const std::uint64_t rounds = w.params.number("rounds", 1000),
                      kernel_ns = w.params.number("ns", 100'000);
  const auto batch = static_cast<unsigned>(std::max<std::uint64_t>(1, 1'000'000 / kernel_ns));
  CUevent done[2] = {};
  for (CUevent& e : done)
    if (const CUresult r = l.cu.cuEventCreate(&e, kEventNoTiming); r != CUDA_SUCCESS)
      return w.fail("an event", r);
  (void)l.timed(rounds, 4);
  if (!w.turn('r')) return 1;
  const std::uint64_t end = monotonic_ns() + w.params.number("ms", 1000) * 1'000'000;
  for (std::uint64_t i = 0; monotonic_ns() < end; ++i) {
    CUevent e = done[i % 2];
    if (i >= 2) {
      (void)l.cu.cuEventSynchronize(e);  // batch i - 2
      if (w.out->log_count < kLogEntries) {
        const std::uint64_t now = monotonic_ns();
        w.out->log[w.out->log_count++] = {now, now, batch, LogEntry::kGranted};
      }
    }
    for (unsigned k = 0; k < batch; ++k)
      if (const CUresult r = l.launch(rounds); r != CUDA_SUCCESS) return w.fail("a launch", r);
    if (const CUresult r = l.cu.cuEventRecord(e, nullptr); r != CUDA_SUCCESS)
      return w.fail("an event", r);
  }
  (void)l.cu.cuCtxSynchronize();
  return w.turn('d') ? 0 : 1;
}

// A kernel each `period_us`, waited for: histogram 0 its time from launch to done, ticks.
int work_request(Worker& w) {
  if (!w.begin()) return 1;
  Loader l{w};
  if (!l.open()) return 1;
  const std::uint64_t rounds = w.params.number("rounds", 1000),
                      period = w.params.number("period_us", 2000) * 1000;
  (void)l.timed(rounds, 16);
  if (!w.turn('r')) return 1;
  const std::uint64_t end = monotonic_ns() + w.params.number("ms", 1000) * 1'000'000;
  for (std::uint64_t due = monotonic_ns(); due < end; due += period) {
    sleep_until_ns(due);
    const std::uint64_t a = ticks();
    const CUresult r = l.launch(rounds);
    (void)l.cu.cuCtxSynchronize();
    w.out->histogram[0].add(ticks() - a);
    if (r != CUDA_SUCCESS) return w.fail("a launch", r);
  }
  return w.turn('d') ? 0 : 1;
}

}  // namespace bulkhead::bench
