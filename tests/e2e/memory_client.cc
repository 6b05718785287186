// A tenant that does as it is told: one command a line on standard input, one answer "rc CODE" a line. It finds the
// driver as programs do, by dlopen and dlsym, and knows nothing of the library in front of it.
#include <dlfcn.h>

#include <cstdio>
#include <functional>
#include <iostream>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "abi/cuda_types.h"
#include "abi/table_macros.h"

namespace {

// Every driver function this program uses, by the table's own types.
extern "C" {
#define BH_HOOK(name, since, family, ...) CUresult name(BH_PARAMS(__VA_ARGS__));
#define BH_PASS(name, since, reason, ...) CUresult name(BH_PARAMS(__VA_ARGS__));
#include "abi/cuda.def"
}
void* library() {
  static void* const handle = dlopen("libcuda.so.1", RTLD_NOW);
  return handle;
}
template <class F>
F* entry(const char* name) {
  auto* const f = reinterpret_cast<F*>(dlsym(library(), name));
  if (f == nullptr) {
    std::fprintf(stderr, "no %s\n", name);
    std::exit(3);
  }
  return f;
}
#define CU(name) entry<decltype(name)>(#name)

CUcontext context = nullptr;

using Undo = std::function<CUresult()>;

CUresult take(const std::string& form, std::size_t a, std::size_t b, Undo& undo) {
  CUdeviceptr p = 0;
  CUresult r = CUDA_ERROR_INVALID_VALUE;
  const auto plain_free = [&] { undo = [p] { return CU(cuMemFree_v2)(p); }; };
  if (form == "plain") {
    r = CU(cuMemAlloc_v2)(&p, a);
    plain_free();
  } else if (form == "managed") {
    r = CU(cuMemAllocManaged)(&p, a, 1);
    plain_free();
  } else if (form == "pitch") {
    std::size_t pitch = 0;
    r = CU(cuMemAllocPitch_v2)(&p, &pitch, a, b, 4);
    plain_free();
  } else if (form == "async") {
    r = CU(cuMemAllocAsync)(&p, a, nullptr);
    undo = [p] { return CU(cuMemFreeAsync)(p, nullptr); };
  } else if (form == "own") {
    static CUmemoryPool pool = [] {
      CUmemPoolProps props{};
      props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
      props.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
      CUmemoryPool made = nullptr;
      CU(cuMemPoolCreate)(&made, &props);
      return made;
    }();
    r = CU(cuMemAllocFromPoolAsync)(&p, a, pool, nullptr);
    undo = [p] { return CU(cuMemFreeAsync)(p, nullptr); };
  } else if (form == "vmm") {
    CUmemAllocationProp prop{};
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    CUmemGenericAllocationHandle h = 0;
    r = CU(cuMemCreate)(&h, a, &prop, 0);
    undo = [h] { return CU(cuMemRelease)(h); };
  } else if (form == "mapped") {  // released at once, kept by its mapping
    CUmemAllocationProp prop{};
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    CUmemGenericAllocationHandle h = 0;
    r = CU(cuMemCreate)(&h, a, &prop, 0);
    if (r != CUDA_SUCCESS) return r;
    CU(cuMemAddressReserve)(&p, a, 0, 0, 0);
    r = CU(cuMemMap)(p, a, 0, h, 0);
    CU(cuMemRelease)(h);
    undo = [p, a] {
      const CUresult unmapped = CU(cuMemUnmap)(p, a);
      CU(cuMemAddressFree)(p, a);
      return unmapped;
    };
  } else if (form == "array") {
    CUarray made = nullptr;
    const CUDA_ARRAY_DESCRIPTOR d{a, b, CU_AD_FORMAT_FLOAT, 1};
    r = CU(cuArrayCreate_v2)(&made, &d);
    undo = [made] { return CU(cuArrayDestroy)(made); };
  } else if (form == "mipmap") {
    CUmipmappedArray made = nullptr;
    const CUDA_ARRAY3D_DESCRIPTOR d{a, b, 0, CU_AD_FORMAT_FLOAT, 4, 0};
    r = CU(cuMipmappedArrayCreate)(&made, &d, 5);
    undo = [made] { return CU(cuMipmappedArrayDestroy)(made); };
  } else if (form == "graph") {  // allocates and leaves it to a later free
    CUgraph g = nullptr;
    CUgraphNode node = nullptr;
    CUgraphExec exec = nullptr;
    CUDA_MEM_ALLOC_NODE_PARAMS params{};
    params.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    params.poolProps.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    params.bytesize = a;
    r = CU(cuGraphCreate)(&g, 0);
    if (r == CUDA_SUCCESS) r = CU(cuGraphAddMemAllocNode)(&node, g, nullptr, 0, &params);
    if (r == CUDA_SUCCESS) r = CU(cuGraphInstantiateWithFlags)(&exec, g, 0);
    if (r == CUDA_SUCCESS) r = CU(cuGraphLaunch)(exec, nullptr);
    CU(cuCtxSynchronize)();
    p = params.dptr;
    undo = [p, exec, g] {
      CUresult freed = CU(cuMemFree_v2)(p);
      CU(cuGraphExecDestroy)(exec);
      CU(cuGraphDestroy)(g);
      return freed;
    };
  }
  return r;
}

// Random allocations and frees of one form, in this thread; leaves nothing.
CUresult storm(unsigned seed, int steps, const std::string& form) {
  CU(cuCtxSetCurrent)(context);
  std::mt19937 rng{seed};
  std::vector<Undo> held;
  for (int i = 0; i < steps; ++i) {
    if (held.size() > 40 || rng() % 3 == 0) {
      if (held.empty()) continue;
      const std::size_t at = rng() % held.size();
      if (const CUresult r = held[at](); r != CUDA_SUCCESS) return r;
      held[at] = held.back();
      held.pop_back();
      continue;
    }
    Undo undo;
    const std::size_t n = rng() % (std::size_t{2} << (rng() % 26)) + 1;
    const CUresult r = take(form, n, 0, undo);
    if (r == CUDA_SUCCESS) held.push_back(undo);
    if (r != CUDA_SUCCESS && r != CUDA_ERROR_OUT_OF_MEMORY) return r;
  }
  for (const Undo& undo : held) {
    if (const CUresult r = undo(); r != CUDA_SUCCESS) return r;
  }
  return CUDA_SUCCESS;
}

}  // namespace

int main() {
  struct Held {
    Undo undo;
    bool of_pool;  // outlives its context
  };
  std::vector<Held> held;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream in{line};
    std::string what, form;
    std::size_t a = 0, b = 0;
    in >> what;
    CUresult r = CUDA_ERROR_INVALID_VALUE;
    if (what == "init") {
      r = CU(cuInit)(0);
      if (r == CUDA_SUCCESS) r = CU(cuDevicePrimaryCtxRetain)(&context, 0);
      if (r == CUDA_SUCCESS) r = CU(cuCtxSetCurrent)(context);
    } else if (what == "take") {
      in >> form >> a >> b;
      Undo undo;
      r = take(form, a, b, undo);
      if (r == CUDA_SUCCESS) held.push_back({undo, form == "async" || form == "own"});
    } else if (what == "free") {
      in >> a;
      a %= held.size();
      r = held[a].undo();
      held[a] = held.back();
      held.pop_back();
    } else if (what == "sync") {
      r = CU(cuCtxSynchronize)();
    } else if (what == "trim") {
      r = CU(cuDeviceGraphMemTrim)(0);
    } else if (what == "reset") {
      r = CU(cuDevicePrimaryCtxReset_v2)(0);
      std::erase_if(held, [](const Held& h) { return !h.of_pool; });
    } else if (what == "storm") {
      int threads = 0, steps = 0;
      in >> form >> threads >> steps >> a;
      std::vector<std::thread> all;
      std::vector<CUresult> results(static_cast<std::size_t>(threads));
      for (std::size_t t = 0; t < results.size(); ++t) {
        all.emplace_back([&, t] { results[t] = storm(static_cast<unsigned>(a + t), steps, form); });
      }
      for (std::thread& t : all) t.join();
      r = CUDA_SUCCESS;
      for (const CUresult one : results) r = one != CUDA_SUCCESS ? one : r;
    }
    std::printf("rc %d\n", static_cast<int>(r));
    std::fflush(stdout);
  }
}
