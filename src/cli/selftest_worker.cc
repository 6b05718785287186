// The self-tests' processes on the device. Each is a program of its own, so that variables, contexts and slices are its alone.
#include <dlfcn.h>
#include <fmt/format.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "abi/cuda_types.h"
#include "abi/table_macros.h"
#include "base/clock.h"
#include "cli/selftest.h"
#include "kernels/kernels.h"

namespace bulkhead::cli {
namespace {

#define BH_SELF_TEST_FUNCTIONS(X) \
  X(cuInit)                       \
  X(cuDeviceGet)                  \
  X(cuDeviceGetAttribute)         \
  X(cuDevicePrimaryCtxRetain)     \
  X(cuCtxSetCurrent)              \
  X(cuCtxSynchronize)             \
  X(cuMemAlloc_v2)                \
  X(cuMemsetD8_v2)                \
  X(cuMemcpyDtoH_v2)              \
  X(cuModuleLoadData) X(cuModuleGetFunction) X(cuLaunchKernel) X(cuStreamSynchronize)
#define BH_GREEN_FUNCTIONS(X)    \
  X(cuDeviceGetDevResource)      \
  X(cuDevSmResourceSplitByCount) \
  X(cuDevResourceGenerateDesc) X(cuGreenCtxCreate) X(cuGreenCtxStreamCreate)

#define BH_HOOK(name, since, family, ...) using name##_type = CUresult(BH_PARAMS(__VA_ARGS__));
#define BH_PASS(name, since, family, ...) using name##_type = CUresult(BH_PARAMS(__VA_ARGS__));
#include "abi/cuda.def"

struct Api {
#define X(name) name##_type* name = nullptr;
  BH_SELF_TEST_FUNCTIONS(X)
  BH_GREEN_FUNCTIONS(X)
#undef X
  bool has_green = true;
};

constexpr unsigned kWords = 64;  // of bh_smid
constexpr std::uint64_t kSpread_ns = 300'000;
constexpr unsigned kShorts = 200;
constexpr std::uint64_t kSlicesSet_ns = 3'600'000'000;  // the library has set them twice by then
constexpr std::uint64_t kShort_ns = 100'000, kShortEvery_ns = 2'000'000, kLong_ns = 5'000'000;

[[noreturn]] void give_up(const std::string& what) {
  fmt::print("{{\"problem\": \"{}\"}}\n", what);
  std::fflush(stdout);
  ::_exit(1);
}

void must(CUresult r, const char* what) {
  if (r != CUDA_SUCCESS) give_up(fmt::format("{} answers {}", what, static_cast<int>(r)));
}

struct Device {
  Api cu;
  CUdevice dev = 0;
  CUmodule module{};

  explicit Device(const std::string& simulator) {
    const std::string path = (simulator.empty() ? "" : simulator + "/") + "libcuda.so.1";
    void* const library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) give_up("libcuda.so.1 cannot be loaded");
#define X(name) cu.name = reinterpret_cast<decltype(cu.name)>(::dlsym(library, #name));
    BH_SELF_TEST_FUNCTIONS(X)
    BH_GREEN_FUNCTIONS(X)
#undef X
#define X(name) \
  if (cu.name == nullptr) give_up("libcuda has no " #name);
    BH_SELF_TEST_FUNCTIONS(X)
#undef X
#define X(name) cu.has_green &= cu.name != nullptr;
    BH_GREEN_FUNCTIONS(X)
#undef X
    must(cu.cuInit(0), "cuInit");
    must(cu.cuDeviceGet(&dev, 0), "cuDeviceGet");
    CUcontext context{};
    must(cu.cuDevicePrimaryCtxRetain(&context, dev), "cuDevicePrimaryCtxRetain");
    must(cu.cuCtxSetCurrent(context), "cuCtxSetCurrent");
    must(cu.cuModuleLoadData(&module, kernels::kPtx), "cuModuleLoadData");
  }
  CUfunction kernel(const char* name) {
    CUfunction f{};
    must(cu.cuModuleGetFunction(&f, module, name), "cuModuleGetFunction");
    return f;
  }
  // Distinct multiprocessors that blocks of a full width land on.
  unsigned distinct(CUstream stream) {
    CUdeviceptr at = 0;
    must(cu.cuMemAlloc_v2(&at, kWords * 4), "cuMemAlloc");
    must(cu.cuMemsetD8_v2(at, 0, kWords * 4), "cuMemsetD8");
    must(cu.cuCtxSynchronize(), "cuCtxSynchronize");
    std::uint64_t ns = kSpread_ns;
    void* args[] = {&at, &ns};
    must(cu.cuLaunchKernel(kernel("bh_smid"), 2048, 1, 1, 1024, 1, 1, 0, stream, args, nullptr),
         "cuLaunchKernel");
    must(cu.cuStreamSynchronize(stream), "cuStreamSynchronize");
    std::uint32_t words[kWords] = {};
    must(cu.cuMemcpyDtoH_v2(words, at, sizeof words), "cuMemcpyDtoH");
    unsigned count = 0;
    for (const std::uint32_t w : words) count += static_cast<unsigned>(std::popcount(w));
    return count;
  }
  int attribute() {
    int n = 0;
    must(cu.cuDeviceGetAttribute(&n, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, dev),
         "cuDeviceGetAttribute");
    return n;
  }
  void spin(CUfunction f, std::uint64_t ns) {
    void* args[] = {&ns};
    must(cu.cuLaunchKernel(f, 2048, 1, 1, 64, 1, 1, 0, nullptr, args, nullptr), "cuLaunchKernel");
  }
};

void smid(Device& d) {
  fmt::print("{{\"attribute\": {}, \"distinct\": {}}}\n", d.attribute(), d.distinct(nullptr));
}

void green(Device& d) {
  if (!d.cu.has_green) give_up("this driver has no green contexts");
  CUdevResource all{}, part{}, rest{};
  unsigned groups = 1;
  must(d.cu.cuDeviceGetDevResource(d.dev, &all, CU_DEV_RESOURCE_TYPE_SM), "cuDeviceGetDevResource");
  must(d.cu.cuDevSmResourceSplitByCount(&part, &groups, &all, &rest, 0, 1),
       "cuDevSmResourceSplitByCount");
  CUdevResourceDesc desc{};
  CUgreenCtx context{};
  CUstream stream{};
  must(d.cu.cuDevResourceGenerateDesc(&desc, &part, 1), "cuDevResourceGenerateDesc");
  must(d.cu.cuGreenCtxCreate(&context, desc, d.dev, 1), "cuGreenCtxCreate");
  must(d.cu.cuGreenCtxStreamCreate(&stream, context, CU_STREAM_NON_BLOCKING, 0),
       "cuGreenCtxStreamCreate");
  fmt::print("{{\"all\": {}, \"given\": {}, \"distinct\": {}}}\n", all.sm.smCount, part.sm.smCount,
             d.distinct(stream));
}

// Long kernels, two queued, until its input ends. With slices asked for it says that it is ready when they are set: they are not at once
// (hook/slice.h).
void batch(Device& d, bool simulated) {
  const CUfunction f = d.kernel("bh_spin");
  const bool sliced = std::getenv("BULKHEAD_SLICE_US") != nullptr && !simulated;
  const std::uint64_t from = monotonic_ns() + (sliced ? kSlicesSet_ns : 0);
  do {
    d.spin(f, kLong_ns);
    must(d.cu.cuCtxSynchronize(), "cuCtxSynchronize");
  } while (monotonic_ns() < from);
  fmt::print("ready\n");
  std::fflush(stdout);
  for (pollfd in{0, POLLIN, 0}; ::poll(&in, 1, 0) == 0;) {
    d.spin(f, kLong_ns);
    d.spin(f, kLong_ns);
    must(d.cu.cuCtxSynchronize(), "cuCtxSynchronize");
  }
}

void sleep_until(std::uint64_t ns) {
  const timespec at{static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
  ::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr);
}

// A short kernel each 2 ms: how long until it is done.
void latency(Device& d) {
  const CUfunction f = d.kernel("bh_spin");
  std::vector<std::uint64_t> took;
  std::uint64_t next = monotonic_ns();
  for (unsigned i = 0; i < kShorts; ++i) {
    const std::uint64_t began = monotonic_ns();
    d.spin(f, kShort_ns);
    must(d.cu.cuCtxSynchronize(), "cuCtxSynchronize");
    took.push_back(monotonic_ns() - began);
    next = std::max(next + kShortEvery_ns, monotonic_ns());
    sleep_until(next);
  }
  std::sort(took.begin(), took.end());
  fmt::print("{{\"p50_us\": {}, \"p99_us\": {}}}\n", took[kShorts / 2] / 1000,
             took[kShorts * 99 / 100] / 1000);
}

}  // namespace

int self_test_worker(const std::string& what, const std::string& simulator) {
  Device d{simulator};
  if (what == "smid") {
    smid(d);
  } else if (what == "green") {
    green(d);
  } else if (what == "batch") {
    batch(d, !simulator.empty());
  } else if (what == "latency") {
    latency(d);
  } else {
    return 2;
  }
  std::fflush(stdout);
  ::_exit(0);  // the driver's own end is not under test
}

}  // namespace bulkhead::cli
