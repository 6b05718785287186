// The worker of suite daemon: one process of one tenant, idle or busy as the bench says.
#include <poll.h>

#include "bench/worker.h"

namespace bulkhead::bench {
namespace {

constexpr int kBatch = 64;  // pairs of cuMemAlloc and cuMemFree, 2 MiB each
constexpr int kRestMs = 10;

}  // namespace

// Idle between turns, holding `held_bytes`: waits in read(). A byte makes it busy: batches of pairs with a rest after
// each, until the next byte. value[0]: pairs in all. Steps: 'i' whenever it has become idle.
int work_steady(Worker& w) {
  if (!w.begin()) return 1;
  CUdeviceptr held = 0;
  CUresult r = w.cu.cuMemAlloc_v2(&held, w.params.number("held_bytes", 64 * kMiB));
  if (r != CUDA_SUCCESS) return w.fail("cuMemAlloc", r);
  pollfd turn{kSocketFd, POLLIN, 0};
  while (w.turn('i')) {
    do {
      for (int i = 0; i < kBatch; ++i) {
        CUdeviceptr p = 0;
        r = w.cu.cuMemAlloc_v2(&p, 2 * kMiB);
        if (r == CUDA_SUCCESS) r = w.cu.cuMemFree_v2(p);
        if (r != CUDA_SUCCESS) return w.fail("a pair of cuMemAlloc and cuMemFree", r);
      }
      w.out->value[0] += kBatch;
    } while (::poll(&turn, 1, kRestMs) == 0);
    if (!w.wait()) return 0;
  }
  return 0;
}

}  // namespace bulkhead::bench
