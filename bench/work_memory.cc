// Workers of rows 1, 2 and 4: the cost of calls, alone and beside others, and of refusals.
#include <sched.h>

#include <vector>

#include "bench/worker.h"

namespace bulkhead::bench {
namespace {

// The measuring thread on the last core that is allowed: every variant's on the same one, whatever else shares it.
void pin() {
  cpu_set_t allowed, one;
  if (::sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  CPU_ZERO(&one);
  for (int cpu = CPU_SETSIZE - 1; cpu >= 0; --cpu)
    if (CPU_ISSET(cpu, &allowed)) {
      CPU_SET(cpu, &one);
      break;
    }
  ::sched_setaffinity(0, sizeof one, &one);
}

// `take` is timed into histogram 0, `drop` into histogram 1, one by one; then value[0] is the mean ns of a pair over
// a run without a counter in it.
template <class Take, class Drop>
int time_pairs(Worker& w, Take take, Drop drop) {
  const std::uint64_t n = w.params.number("n", 20'000);
  pin();
  for (std::uint64_t i = 0; i < n / 10 + 16; ++i) {  // warm: slabs, pools, slack
    const CUresult r = take();
    if (r != CUDA_SUCCESS) return w.fail("warm-up", r);
    drop();
  }
  if (!w.turn('r')) return 1;
  for (std::uint64_t i = 0; i < n; ++i) {
    const std::uint64_t a = ticks();
    const CUresult r = take();
    const std::uint64_t b = ticks();
    if (r != CUDA_SUCCESS) return w.fail("measured call", r);
    const std::uint64_t c = ticks();
    drop();
    const std::uint64_t d = ticks();
    w.out->histogram[0].add(b - a);
    w.out->histogram[1].add(d - c);
  }
  const std::uint64_t start = ticks();
  for (std::uint64_t i = 0; i < n; ++i) {
    (void)take();
    drop();
  }
  w.out->value[0] = static_cast<double>(ticks() - start) / static_cast<double>(n) * ns_per_tick();
  return 0;
}

CUmemAllocationProp on_device_0() {
  CUmemAllocationProp p{};
  p.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  p.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  return p;
}

// Keeps what a pool has between the calls, so that the pairs below measure the calls and not the device.
void keep_pool(Api& cu) {
  CUmemoryPool pool{};
  cuuint64_t all = ~0ull;
  if (cu.cuDeviceGetDefaultMemPool(&pool, 0) == CUDA_SUCCESS)
    cu.cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &all);
}

}  // namespace

int work_calls(Worker& w) {
  if (!w.begin()) return 1;
  const std::string call = w.params.text("call");
  const std::uint64_t bytes = w.params.number("bytes", 512);
  Api& cu = w.cu;
  CUdeviceptr p = 0;
  if (call == "alloc")
    return time_pairs(
        w, [&] { return cu.cuMemAlloc_v2(&p, bytes); }, [&] { cu.cuMemFree_v2(p); });
  if (call == "async") {
    keep_pool(cu);
    return time_pairs(
        w, [&] { return cu.cuMemAllocAsync(&p, bytes, nullptr); },
        [&] { cu.cuMemFreeAsync(p, nullptr); });
  }
  if (call == "vmm") {
    const CUmemAllocationProp prop = on_device_0();
    CUmemGenericAllocationHandle h{};
    return time_pairs(
        w, [&] { return cu.cuMemCreate(&h, bytes, &prop, 0); }, [&] { cu.cuMemRelease(h); });
  }
  if (call == "info") {
    std::size_t free = 0, total = 0;
    return time_pairs(
        w, [&] { return cu.cuMemGetInfo_v2(&free, &total); }, [] {});
  }
  return w.fail("unknown call", CUDA_ERROR_INVALID_VALUE);
}

// Several at once: each starts when all are ready, runs `ms` long.
int work_async(Worker& w) {
  if (!w.begin()) return 1;
  keep_pool(w.cu);
  const bool async = w.params.number("plain") == 0;
  const std::uint64_t bytes = w.params.number("bytes", 1 << 20);
  CUdeviceptr p = 0;
  auto take = [&] {
    return async ? w.cu.cuMemAllocAsync(&p, bytes, nullptr) : w.cu.cuMemAlloc_v2(&p, bytes);
  };
  auto drop = [&] { return async ? w.cu.cuMemFreeAsync(p, nullptr) : w.cu.cuMemFree_v2(p); };
  for (int i = 0; i < 64; ++i) {
    const CUresult r = take();
    if (r != CUDA_SUCCESS) return w.fail("warm-up", r);
    drop();
  }
  const double rate = ns_per_tick();
  if (!w.turn('r')) return 1;
  const auto length =
      static_cast<std::uint64_t>(static_cast<double>(w.params.number("ms", 500)) * 1e6 / rate);
  const std::uint64_t end = ticks() + length;
  for (std::uint64_t now = ticks(); now < end;) {
    const CUresult r = take();
    const std::uint64_t b = ticks();
    if (r != CUDA_SUCCESS) return w.fail("measured call", r);
    w.out->histogram[0].add(b - now);
    drop();
    now = ticks();
    w.out->histogram[1].add(now - b);
  }
  return 0;
}

// A living process of the tenant that only sits there. It has asked for its memory, so it has a slot; without `context`
// it has no context (hundreds of them would fill the device).
int work_member(Worker& w) {
  if (!w.cu.open()) return w.fail(w.cu.missing, CUDA_ERROR_NOT_FOUND);
  CUdevice device = 0;
  std::size_t total = 0;
  CUresult r = w.cu.cuInit(0);
  if (r == CUDA_SUCCESS) r = w.cu.cuDeviceGet(&device, 0);
  if (r == CUDA_SUCCESS) r = w.cu.cuDeviceTotalMem_v2(&total, device);
  if (r != CUDA_SUCCESS) return w.fail("start", r);
  CUdeviceptr p = 0;
  if (w.params.number("context") != 0) {
    const char* step = "";
    r = w.cu.start(&step);
    if (r != CUDA_SUCCESS) return w.fail(step, r);
    r = w.cu.cuMemAlloc_v2(&p, 2 << 20);
    if (r != CUDA_SUCCESS) return w.fail("cuMemAlloc", r);
  }
  return w.turn('r') ? 0 : 1;
}

// Refused requests, one by one: histogram 0 those that only the books can refuse (they fit the limit, not what is
// left of it), histogram 1 those above the limit itself, histogram 2 the counter alone. value[0]: how many were granted
// after all.
int work_denied(Worker& w) {
  if (!w.begin()) return 1;
  std::size_t free = 0, total = 0;
  const CUresult r = w.cu.cuMemGetInfo_v2(&free, &total);
  if (r != CUDA_SUCCESS) return w.fail("cuMemGetInfo", r);
  const std::uint64_t quota = w.params.number("quota");
  if (quota != 0 && total != quota) return w.fail("the total seen is not the quota", CUDA_SUCCESS);
  if (!w.turn('r')) return 1;
  pin();
  const std::size_t left = free + (64u << 20) < total ? free + (64u << 20) : total;
  const std::uint64_t n = w.params.number("n", 20'000);
  for (int kind = 0; kind < 2; ++kind) {
    const std::size_t request = kind == 0 ? left : total + (2u << 20);
    for (std::uint64_t i = 0; i < n + 64; ++i) {
      CUdeviceptr p = 0;
      const std::uint64_t a = ticks();
      const CUresult code = w.cu.cuMemAlloc_v2(&p, request);
      const std::uint64_t b = ticks();
      if (code == CUDA_SUCCESS) {
        w.out->value[0] += 1;
        w.cu.cuMemFree_v2(p);
      } else if (code != CUDA_ERROR_OUT_OF_MEMORY) {
        return w.fail("a refusal is another code than 2", code);
      }
      if (i >= 64) w.out->histogram[kind].add(b - a);
    }
  }
  for (int i = 0; i < 20'000; ++i) {
    const std::uint64_t a = ticks();
    w.out->histogram[2].add(ticks() - a);
  }
  return 0;
}

}  // namespace bulkhead::bench
