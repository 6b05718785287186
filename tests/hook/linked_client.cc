// A program linked with -lcuda: everything by ELF symbol.
#include "tests/hook/client.h"

extern "C" {
CUresult cuInit(unsigned);
CUresult cuDeviceTotalMem_v2(size_t*, CUdevice);
CUresult cuDeviceTotalMem(unsigned*, CUdevice);
CUresult cuMemGetInfo_v2(size_t*, size_t*);
CUresult cuCtxCreate_v2(CUcontext*, unsigned, CUdevice);
CUresult cuMemAlloc_v2(CUdeviceptr*, size_t);
// this driver has it not: null without the library, an honest answer with it
__attribute__((weak)) CUresult cuMemCreate(CUmemGenericAllocationHandle*, size_t,
                                           const CUmemAllocationProp*, unsigned long long);
}

int main() {
  size_t free = 0, total = 0, n = 0;
  unsigned small = 0;
  CUcontext context = nullptr;
  CUdeviceptr p = 0;
  say("early_info", cuMemGetInfo_v2(&free, &total));
  say("init", cuInit(0));
  say("total_result", cuDeviceTotalMem_v2(&n, 0));
  say("total", n);
  say("info_without_context", cuMemGetInfo_v2(&free, &total));
  cuCtxCreate_v2(&context, 0, 0);
  say("info", cuMemGetInfo_v2(&free, &total));
  say("info_total", total);
  say("info_free", free);
  cuDeviceTotalMem(&small, 0);
  say("total_v1", small);
  say("alloc", cuMemAlloc_v2(&p, 1 << 20));
  say("missing", cuMemCreate == nullptr ? CUDA_SUCCESS : cuMemCreate(nullptr, 0, nullptr, 0));
}
