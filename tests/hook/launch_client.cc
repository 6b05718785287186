// Launches kernels of a given length for a given time, as fast as it may:
//     launch_client plain|graph|streams|uuid KERNEL_US TIME_MS
// and says how many ran, and how long it took from the first launch until the last had ended.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "abi/table_macros.h"
#include "base/clock.h"
#include "kernels/kernels.h"
#include "tests/hook/client.h"

extern "C" {
#define BH_HOOK(name, since, family, ...) CUresult name(BH_PARAMS(__VA_ARGS__));
#define BH_PASS(name, since, reason, ...) CUresult name(BH_PARAMS(__VA_ARGS__));
#include "abi/cuda.def"
}

namespace {

template <class F>
F* entry(const char* name) {
  static void* const lib = dlopen("libcuda.so.1", RTLD_NOW);
  auto* const f = reinterpret_cast<F*>(dlsym(lib, name));
  if (f == nullptr) std::exit(3);
  return f;
}
#define CU(name) entry<decltype(name)>(#name)

void must(CUresult r) {
  if (r == CUDA_SUCCESS) return;
  std::fprintf(stderr, "driver: %u\n", static_cast<unsigned>(r));
  std::exit(2);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 3;
  const bool graph = std::strcmp(argv[1], "graph") == 0;
  const unsigned count = std::strcmp(argv[1], "streams") == 0 ? 4 : 1;
  // what the simulator adds to each of our kernels is taken off
  std::uint64_t ns = std::strtoull(argv[2], nullptr, 10) * 1000 - 2000;
  const std::uint64_t time_ns = std::strtoull(argv[3], nullptr, 10) * 1'000'000;
  CUuuid uuid{};
  must(CU(cuInit)(0));
  if (std::strcmp(argv[1], "uuid") == 0) {
    must(CU(cuDeviceGetUuid_v2)(&uuid, 0));
    for (const char byte : uuid.bytes) say("byte", static_cast<unsigned char>(byte));
    return 0;
  }
  CUcontext context{};
  CUmodule module{};
  CUfunction spin{};
  must(CU(cuDevicePrimaryCtxRetain)(&context, 0));
  must(CU(cuCtxSetCurrent)(context));
  must(CU(cuModuleLoadData)(&module, bulkhead::kernels::kPtx));
  must(CU(cuModuleGetFunction)(&spin, module, "bh_spin"));
  CUstream streams[4] = {};
  for (CUstream& s : streams) must(CU(cuStreamCreate)(&s, 1));
  void* args[] = {&ns};
  auto* const run = CU(cuLaunchKernel);
  auto* const replay = CU(cuGraphLaunch);
  CUgraphExec exec{};
  if (graph) {
    CUgraph made{};
    must(CU(cuStreamBeginCapture_v2)(streams[0], CU_STREAM_CAPTURE_MODE_GLOBAL));
    must(run(spin, 264, 1, 1, 1024, 1, 1, 0, streams[0], args, nullptr));
    must(CU(cuStreamEndCapture)(streams[0], &made));
    must(CU(cuGraphInstantiateWithFlags)(&exec, made, 0));
  }
  say("ready", 1);
  std::fflush(stdout);
  const std::uint64_t start = bulkhead::monotonic_ns();
  std::uint64_t n = 0;
  while (bulkhead::monotonic_ns() - start < time_ns) {
    CUstream s = streams[n % count];
    must(graph ? replay(exec, s) : run(spin, 264, 1, 1, 1024, 1, 1, 0, s, args, nullptr));
    ++n;
  }
  must(CU(cuCtxSynchronize)());
  say("launches", n);
  say("ns", bulkhead::monotonic_ns() - start);
  return 0;
}
