// Copies and sets of 4 KiB, 64 at a time and then waited for, so that the driver's queue is never full. Histogram 0: each call, in ticks;
// value[0]: ns a call without a clock in between, the best of the spans of 64.
#include <algorithm>
#include <cmath>

#include "bench/ticks.h"
#include "bench/worker.h"

namespace bulkhead::bench {

int work_copies(Worker& w) {
  if (!w.begin()) return 1;
  constexpr std::size_t kBytes = 4096;
  constexpr unsigned kSpan = 64;
  const std::string op = w.params.text("op");
  void* host = nullptr;
  CUdeviceptr there = 0;
  if (const CUresult r = w.cu.cuMemAllocHost_v2(&host, kBytes); r != CUDA_SUCCESS)
    return w.fail("pinned memory", r);
  if (const CUresult r = w.cu.cuMemAlloc_v2(&there, kBytes); r != CUDA_SUCCESS)
    return w.fail("memory", r);
  const auto once = [&] {
    if (op == "h2d") return w.cu.cuMemcpyHtoDAsync_v2(there, host, kBytes, nullptr);
    if (op == "d2h") return w.cu.cuMemcpyDtoHAsync_v2(host, there, kBytes, nullptr);
    return w.cu.cuMemsetD8_v2(there, 1, kBytes);
  };
  for (unsigned i = 0; i < 4 * kSpan; ++i)
    if (const CUresult r = once(); r != CUDA_SUCCESS) return w.fail("warm-up", r);
  (void)w.cu.cuCtxSynchronize();
  double best = INFINITY;
  const auto measure = [&](std::uint64_t n) {
    double round = 0;
    for (std::uint64_t s = 0; s < n; ++s) {
      for (unsigned i = 0; i < kSpan; ++i) {
        const std::uint64_t a = ticks();
        const CUresult r = once();
        w.out->histogram[0].add(ticks() - a);
        if (r != CUDA_SUCCESS) return w.fail("measured call", r), false;
      }
      (void)w.cu.cuCtxSynchronize();
      const std::uint64_t start = ticks();
      for (unsigned i = 0; i < kSpan; ++i) (void)once();
      const auto took = static_cast<double>(ticks() - start);
      best = std::min(best, took), round += took;
      (void)w.cu.cuCtxSynchronize();
    }
    w.log_round(round / static_cast<double>(n * kSpan) * ns_per_tick());
    return true;
  };
  if (!w.take_turns(w.params.number("n") / kSpan, measure)) return 1;
  w.out->value[0] = best / kSpan * ns_per_tick();
  return 0;
}

}  // namespace bulkhead::bench
