// A libnccl.so.2 for tests: ranks in several processes meet in a file that the unique id names; a collective waits (on the host)
// until no other rank is more than a few behind, and launches a kernel with a name of NCCL's. A rank that is held for ever
// therefore stops all of them.
#include "tests/hook/fake_nccl.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>

extern "C" {
#define BH_HOOK(name, since, family, ...) CUresult name(BH_PARAMS(__VA_ARGS__));
#define BH_PASS(name, since, reason, ...) CUresult name(BH_PARAMS(__VA_ARGS__));
#include "abi/cuda.def"
}

namespace {

constexpr unsigned kRanks = 8, kAhead = 8;
struct Meeting {
  std::atomic<unsigned> done[kRanks];
};
constexpr const char* kPtx =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    ".visible .entry ncclDevKernel_AllReduce_Sum(.param .u64 a)\n{ // "
    "bulkhead-sim-ns=20000\nret;\n}\n";

template <class F>
F* driver(const char* name) {
  return reinterpret_cast<F*>(dlsym(dlopen("libcuda.so.1", RTLD_NOW), name));
}
#define CU(name) driver<decltype(name)>(#name)

int inits = 0;
thread_local int depth = 0;
struct Queued {
  ncclComm_t comm;
  CUstream stream;
};
thread_local Queued queued[64];
thread_local unsigned count = 0;

}  // namespace

struct ncclComm {
  Meeting* meeting;
  int ranks, rank;
  CUfunction kernel;
};

namespace {

ncclResult_t launch(ncclComm_t c, CUstream stream) {
  const unsigned mine = c->meeting->done[c->rank].fetch_add(1) + 1;
  for (int r = 0; r < c->ranks; ++r)
    while (c->meeting->done[r].load() + kAhead < mine) sched_yield();
  std::uint64_t argument = 0;
  void* args[] = {&argument};
  static auto* const run = CU(cuLaunchKernel);
  return run(c->kernel, 8, 1, 1, 256, 1, 1, 0, stream, args, nullptr) == CUDA_SUCCESS
             ? ncclSuccess
             : ncclUnhandledCudaError;
}

}  // namespace

#define EXPORT __attribute__((visibility("default")))
extern "C" {

EXPORT int fake_nccl_inits() { return inits; }

EXPORT ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  memset(id, 0, sizeof *id);
  const char* const dir = getenv("TMPDIR");
  snprintf(id->internal, sizeof id->internal, "%s/fake-nccl-XXXXXX", dir != nullptr ? dir : "/tmp");
  const int fd = mkstemp(id->internal);
  if (fd < 0 || ftruncate(fd, sizeof(Meeting)) != 0) return ncclSystemError;
  close(fd);
  return ncclSuccess;
}

EXPORT ncclResult_t ncclCommInitRank(ncclComm_t* comm, int nranks, ncclUniqueId id, int rank) {
  ++inits;
  if (nranks < 1 || nranks > static_cast<int>(kRanks) || rank < 0 || rank >= nranks)
    return ncclInvalidArgument;
  const int fd = open(id.internal, O_RDWR | O_CLOEXEC);
  void* const at = mmap(nullptr, sizeof(Meeting), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  CUmodule module{};
  auto* const c = new ncclComm{static_cast<Meeting*>(at), nranks, rank, {}};
  if (at == MAP_FAILED || CU(cuModuleLoadData)(&module, kPtx) != CUDA_SUCCESS ||
      CU(cuModuleGetFunction)(&c->kernel, module, "ncclDevKernel_AllReduce_Sum") != CUDA_SUCCESS)
    return ncclUnhandledCudaError;
  *comm = c;
  return ncclSuccess;
}
EXPORT ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int nranks, ncclUniqueId id, int rank,
                                           ncclConfig_t*) {
  return ncclCommInitRank(comm, nranks, id, rank);
}
EXPORT ncclResult_t ncclCommInitAll(ncclComm_t* comm, int ndev, const int*) {
  ncclUniqueId id;
  if (ncclGetUniqueId(&id) != ncclSuccess) return ncclSystemError;
  for (int i = 0; i < ndev; ++i)
    if (const ncclResult_t r = ncclCommInitRank(&comm[i], ndev, id, i); r != ncclSuccess) return r;
  return ncclSuccess;
}
EXPORT ncclResult_t ncclCommSplit(ncclComm_t comm, int, int, ncclComm_t* made, ncclConfig_t*) {
  *made = new ncclComm(*comm);
  return ncclSuccess;
}
EXPORT ncclResult_t ncclCommFinalize(ncclComm_t) { return ncclSuccess; }
EXPORT ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  delete comm;
  return ncclSuccess;
}
EXPORT ncclResult_t ncclCommAbort(ncclComm_t comm) { return ncclCommDestroy(comm); }
EXPORT ncclResult_t ncclGroupStart() {
  ++depth;
  return ncclSuccess;
}
EXPORT ncclResult_t ncclGroupEnd() {
  if (--depth != 0) return ncclSuccess;
  ncclResult_t r = ncclSuccess;
  for (unsigned i = 0; i < count; ++i)
    if (launch(queued[i].comm, queued[i].stream) != ncclSuccess) r = ncclUnhandledCudaError;
  count = 0;
  return r;
}
EXPORT ncclResult_t ncclAllReduce(const void*, void*, std::size_t, int, int, ncclComm_t comm,
                                  CUstream stream) {
  if (depth == 0) return launch(comm, stream);
  queued[count++ % 64] = {comm, stream};
  return ncclSuccess;
}
}
