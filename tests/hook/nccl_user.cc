// A library that is linked with NCCL, as PyTorch's is; and, compiled with BH_MAIN, a program that is.
//     nccl_user RANK RANKS N US [ID]     N collectives, every tenth followed by a kernel of US; rank 0 without an ID makes one and
//                                        says "id PATH"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"
#include "tests/hook/fake_nccl.h"

extern "C" {
#define BH_HOOK(name, since, family, ...) CUresult name(BH_PARAMS(__VA_ARGS__));
#define BH_PASS(name, since, reason, ...) CUresult name(BH_PARAMS(__VA_ARGS__));
#include "abi/cuda.def"
int nccl_user(int argc, char** argv);
}

namespace {
template <class F>
F* entry(const char* name) {
  return reinterpret_cast<F*>(dlsym(dlopen("libcuda.so.1", RTLD_NOW), name));
}
#define CU(name) entry<decltype(name)>(#name)
void must(int r, int line) {
  if (r == 0) return;
  fprintf(stderr, "line %d: %d\n", line, r);
  exit(2);
}
#define MUST(call) must(static_cast<int>(call), __LINE__)

// The same calls through pointers where the program asked dlsym for them.
#if defined(BH_ASKED)
void* nccl() {
  static void* const lib = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  return lib;
}
#define NC(name) reinterpret_cast<decltype(&name)>(dlsym(nccl(), #name))
#else
#define NC(name) name
#endif
}  // namespace

__attribute__((visibility("default"))) int nccl_user(int argc, char** argv) {
  if (argc < 5) return 3;
  const int rank = atoi(argv[1]), ranks = atoi(argv[2]), n = atoi(argv[3]);
  const long us = atol(argv[4]);
  CUcontext context{};
  CUmodule module{};
  CUfunction spin{};
  CUstream stream{};
  MUST(CU(cuInit)(0));
  MUST(CU(cuDevicePrimaryCtxRetain)(&context, 0));
  MUST(CU(cuCtxSetCurrent)(context));
  MUST(CU(cuModuleLoadData)(&module, bulkhead::kernels::kPtx));
  MUST(CU(cuModuleGetFunction)(&spin, module, "bh_spin"));
  MUST(CU(cuStreamCreate)(&stream, 1));
  ncclUniqueId id{};
  if (argc > 5) {
    strncpy(id.internal, argv[5], sizeof id.internal - 1);
  } else {
    MUST(NC(ncclGetUniqueId)(&id));
    printf("id %s\n", id.internal);
    fflush(stdout);
  }
  ncclComm_t comm{};
  MUST(NC(ncclCommInitRank)(&comm, ranks, id, rank));
  std::uint64_t ns = static_cast<std::uint64_t>(us) * 1000;
  void* args[] = {&ns};
  auto* const reduce = NC(ncclAllReduce);
  auto* const begin = NC(ncclGroupStart);
  auto* const end = NC(ncclGroupEnd);
  auto* const run = CU(cuLaunchKernel);
  for (int i = 0; i < n; ++i) {
    const bool grouped = i % 4 == 3;
    if (grouped) MUST(begin());
    MUST(reduce(nullptr, nullptr, 1, 7, 0, comm, stream));
    if (grouped) MUST(end());
    if (us != 0 && i % 10 == 9) MUST(run(spin, 264, 1, 1, 1024, 1, 1, 0, stream, args, nullptr));
  }
  MUST(CU(cuStreamSynchronize)(stream));
  MUST(NC(ncclCommDestroy)(comm));
  printf("inits %d\ndone 1\n", NC(fake_nccl_inits)());
  fflush(stdout);
  return 0;
}

#if defined(BH_MAIN)
int main(int argc, char** argv) { return nccl_user(argc, argv); }
#endif
