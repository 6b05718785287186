// The worker of row 13: requests one after the other, each with its input and its result copied.
#include "base/clock.h"
#include "bench/worker.h"
#include "kernels/kernels.h"

namespace bulkhead::bench {

// A request: 16 KiB in, a kernel of `rounds` on each SM, 16 KiB out, waited for. Each go: requests for `ms`; histogram 0 their times in
// ticks, value[0] the seconds. Until the bench is gone.
int work_closed(Worker& w) {
  if (!w.begin()) return 1;
  constexpr std::size_t kBytes = 16 << 10;
  static std::uint64_t in[kBytes / 8], result[kBytes / 8];
  CUmodule module{};
  CUfunction work{};
  CUdeviceptr memory{};
  CUresult r = w.cu.cuModuleLoadData(&module, kernels::kPtx);
  if (r == CUDA_SUCCESS) r = w.cu.cuModuleGetFunction(&work, module, "bh_work");
  if (r == CUDA_SUCCESS) r = w.cu.cuMemAlloc_v2(&memory, kBytes);
  if (r != CUDA_SUCCESS) return w.fail("the kernel and its memory", r);
  std::uint64_t rounds = w.params.number("rounds", 1000), out = 0;
  void* args[] = {&rounds, &out};
  const auto request = [&] {
    CUresult code = w.cu.cuMemcpyHtoDAsync_v2(memory, in, kBytes, nullptr);
    if (code == CUDA_SUCCESS)
      code = w.cu.cuLaunchKernel(work, 132, 1, 1, 128, 1, 1, 0, nullptr, args, nullptr);
    if (code == CUDA_SUCCESS) code = w.cu.cuMemcpyDtoHAsync_v2(result, memory, kBytes, nullptr);
    return code == CUDA_SUCCESS ? w.cu.cuCtxSynchronize() : code;
  };
  for (int i = 0; i < 16; ++i)
    if (r = request(); r != CUDA_SUCCESS) return w.fail("a request", r);
  while (w.turn('r')) {
    w.out->histogram[0] = {};
    const std::uint64_t begin = monotonic_ns(), ms = w.params.number("ms", 1000);
    std::uint64_t now = begin;
    while (now - begin < ms * 1'000'000) {
      const std::uint64_t a = ticks();
      if (r = request(); r != CUDA_SUCCESS) return w.fail("a request", r);
      w.out->histogram[0].add(ticks() - a);
      now = monotonic_ns();
    }
    w.out->value[0] = static_cast<double>(now - begin) / 1e9;
  }
  return 0;
}

}  // namespace bulkhead::bench
