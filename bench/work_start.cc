// Workers of row 3 (start-up) and of the instruction gate.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "base/clock.h"
#include "bench/worker.h"
#include "shm/region.h"

namespace bulkhead::bench {

// value[0..4]: CLOCK_MONOTONIC ns at main, after cuInit, after the context, after the first allocation, after the
// first kernel. value[6]: ns inside the library by then, if it counts them. value[5]: 1 if a kernel ran, 0 if a memset stood in for it.
int work_start(Worker& w) {
  auto mark = [&](int i) { w.out->value[i] = static_cast<double>(monotonic_ns()); };
  mark(0);
  if (!w.cu.open()) return w.fail(w.cu.missing, CUDA_ERROR_NOT_FOUND);
  CUresult r = w.cu.cuInit(0);
  if (r != CUDA_SUCCESS) return w.fail("cuInit", r);
  mark(1);
  const char* step = "";
  r = w.cu.start(&step);
  if (r != CUDA_SUCCESS) return w.fail(step, r);
  mark(2);
  CUdeviceptr p = 0;
  r = w.cu.cuMemAlloc_v2(&p, 2 << 20);
  if (r != CUDA_SUCCESS) return w.fail("cuMemAlloc", r);
  mark(3);
  bool kernel = false;
  r = w.cu.first_kernel(&kernel);
  if (r != CUDA_SUCCESS) return w.fail("first kernel", r);
  mark(4);
  w.out->value[5] = kernel ? 1 : 0;
  // libbulkhead-ticks.so only
  using TicksInside = unsigned long long();
  if (auto* inside = reinterpret_cast<TicksInside*>(::dlsym(RTLD_DEFAULT, "bulkhead_ticks_inside")))
    w.out->value[6] = static_cast<double>(inside()) * ns_per_tick();
  return 0;
}

namespace {

// Gives this process's tenant a share of the device's time, as a governor does, and does not let go of the region: closing
// it would drop the record lock of the library's own slot. False: there is none.
bool limit_compute(std::uint32_t x100) {
  const char* dir = std::getenv("BULKHEAD_DIR");
  const char* tenant = std::getenv("BULKHEAD_TENANT");
  if (dir == nullptr) return false;
  const std::string path =
      std::string{dir} + "/tenants/" + (tenant != nullptr ? tenant : "default") + "/region";
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return false;
  void* const at = ::mmap(nullptr, sizeof(shm::Region), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) return false;
  shm::ComputeEntry& e = static_cast<shm::Region*>(at)->compute[0];
  e.ceiling_x100.store(x100, std::memory_order_relaxed);
  e.burst_us.store(
      1'000'000,
      std::memory_order_relaxed);  // nobody waits: what is counted is the way to the driver
  e.window_us.store(1'000'000, std::memory_order_relaxed);
  e.floor_x100.store(x100, std::memory_order_relaxed);
  e.rules.fetch_add(1, std::memory_order_release);  // pairs with the library's look
  return true;
}

// `n` launches of a kernel or of a graph of one, with a share or without.
CUresult gate_launches(Worker& w, const std::string& op, std::uint64_t n, std::uint64_t most) {
  Api& cu = w.cu;
  bool kernel = false;
  CUfunction f{};
  CUresult r = cu.first_kernel(&kernel, &f);
  CUgraph graph{};
  CUgraphExec exec{};
  CUstream s{};
  if (r == CUDA_SUCCESS) r = cu.cuStreamCreate(&s, CU_STREAM_NON_BLOCKING);
  if (r == CUDA_SUCCESS) r = cu.cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
  if (r == CUDA_SUCCESS) r = cu.cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, s, nullptr, nullptr);
  if (r == CUDA_SUCCESS) r = cu.cuStreamEndCapture(s, &graph);
  if (r == CUDA_SUCCESS) r = cu.cuGraphInstantiateWithFlags(&exec, graph, 0);
  if (op.find("capped") != std::string::npos && !limit_compute(9'999)) return CUDA_ERROR_UNKNOWN;
  const bool replays = op.rfind("graph", 0) == 0;
  for (std::uint64_t i = 0; i < most + n && r == CUDA_SUCCESS; ++i) {
    // the library's own thread has learned what it costs before anything is counted
    if (i < most && i % (most / 8) == 0) ::usleep(20'000);
    r = replays ? cu.cuGraphLaunch(exec, s)
                : cu.cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, s, nullptr, nullptr);
  }
  return r;
}

}  // namespace

// `n` calls of one kind after a preparation that does not depend on n: the gate runs it with two values of n and counts
// the instructions of the difference.
int work_gate(Worker& w) {
  const char* step = "";
  const std::string op = w.params.text("op");
  if (!w.cu.open()) return w.fail(w.cu.missing, CUDA_ERROR_NOT_FOUND);
  CUresult r = w.cu.start(&step);
  if (r != CUDA_SUCCESS) return w.fail(step, r);
  Api& cu = w.cu;
  const std::uint64_t n = w.params.number("n"), most = w.params.number("most");
  std::vector<CUdeviceptr> p(most + 1);
  auto all = [&](auto call) {
    for (std::uint64_t i = 0; i < most && r == CUDA_SUCCESS; ++i) r = call(p[i]);
  };
  auto some = [&](auto call) {
    for (std::uint64_t i = 0; i < n && r == CUDA_SUCCESS; ++i) r = call(p[i]);
  };
  // 2 MiB: all of them together stay below what one process may keep as slack.
  auto alloc = [&](CUdeviceptr& at) { return cu.cuMemAlloc_v2(&at, 2 << 20); };
  auto release = [&](CUdeviceptr& at) { return cu.cuMemFree_v2(at); };
  if (op == "alloc_growing") {
    some(alloc);
  } else if (op == "alloc") {  // within what was freed before: no growth of the process's share
    all(alloc);
    all(release);
    some(alloc);
  } else if (op == "free") {
    all(alloc);
    some(release);
  } else if (op == "alloc_async_pair") {
    // A base allocation keeps the pool from shrinking and growing in between.
    r = cu.cuMemAllocAsync(&p[most], 1 << 20, nullptr);
    auto pair = [&](CUdeviceptr& at) {
      const CUresult a = cu.cuMemAllocAsync(&at, 1 << 20, nullptr);
      return a == CUDA_SUCCESS ? cu.cuMemFreeAsync(at, nullptr) : a;
    };
    all(pair);
    some(pair);
  } else if (op == "mem_get_info") {
    some([&](CUdeviceptr&) {
      std::size_t free = 0, total = 0;
      return cu.cuMemGetInfo_v2(&free, &total);
    });
  } else if (op == "refused") {
    some([&](CUdeviceptr& at) {
      const CUresult a = cu.cuMemAlloc_v2(&at, w.params.number("quota") - (4 << 20));
      return a == CUDA_ERROR_OUT_OF_MEMORY ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN;
    });
  } else if (op == "copy") {
    static char source[64];
    r = alloc(p[most]);
    some([&](CUdeviceptr&) {
      return cu.cuMemcpyHtoDAsync_v2(p[most], source, sizeof source, nullptr);
    });
  } else if (op.find("launch") != std::string::npos) {
    r = gate_launches(w, op, n, most);
  } else if (op != "start") {
    return w.fail("unknown operation", CUDA_ERROR_INVALID_VALUE);
  }
  return r == CUDA_SUCCESS ? 0 : w.fail(op.c_str(), r);
}

// Row 5's and every suite's first question: is the limit there? With info=1: what the driver says of itself
// (value[0] total bytes, value[1] version, the name in the log).
// Otherwise value[0] = 1 if a request above the quota was refused, value[1] = its code, value[2] = total seen.
int work_probe(Worker& w) {
  const char* step = "";
  if (!w.cu.open()) return w.fail(w.cu.missing, CUDA_ERROR_NOT_FOUND);
  CUresult r = w.cu.start(&step);
  if (r != CUDA_SUCCESS) return w.fail(step, r);
  std::size_t free = 0, total = 0;
  r = w.cu.cuMemGetInfo_v2(&free, &total);
  if (r != CUDA_SUCCESS) return w.fail("cuMemGetInfo", r);
  if (w.params.number("info") != 0) {
    int version = 0;
    w.cu.cuDriverGetVersion(&version);
    w.cu.cuDeviceTotalMem_v2(&total, 0);
    w.out->value[0] = static_cast<double>(total);
    w.out->value[1] = version;
    w.cu.cuDeviceGetName(reinterpret_cast<char*>(w.out->log), 200, 0);
    return 0;
  }
  CUdeviceptr p = 0;
  r = w.cu.cuMemAlloc_v2(&p, w.params.number("quota") + (64u << 20));
  w.out->value[0] = r == CUDA_SUCCESS ? 0 : 1;
  w.out->value[1] = static_cast<double>(r);
  w.out->value[2] = static_cast<double>(total);
  return 0;
}

}  // namespace bulkhead::bench
