// The demo's worker: an ordinary driver-API program. It knows nothing of quotas; what it is told
// about memory is what any program in its place would be told.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "cli/demo.h"
#include "cli/driver.h"

namespace bulkhead::cli {
namespace {

constexpr std::size_t kSmallest = 2u << 20;
constexpr std::size_t kLargestPiece = 4u << 20;  // small pieces, so that a race takes a while

void answer(const std::string& line) {
  std::fputs((line + "\n").c_str(), stdout);
  std::fflush(stdout);
}

struct Worker {
  Driver cu;
  std::vector<CUdeviceptr> held;

  std::string begin() {
    CUdevice device = 0;
    CUcontext context = nullptr;
    CUresult r = cu.cuInit(0);
    if (r == CUDA_SUCCESS) r = cu.cuDeviceGet(&device, 0);
    if (r == CUDA_SUCCESS) r = cu.cuDevicePrimaryCtxRetain(&context, device);
    if (r == CUDA_SUCCESS) r = cu.cuCtxSetCurrent(context);
    return r == CUDA_SUCCESS ? fmt::format("ready {}", ::getpid()) : "failed " + result_text(r);
  }

  // Takes memory in ever smaller pieces until not even 2 MiB are given.
  std::string fill() {
    std::uint64_t bytes = 0;
    CUresult last = CUDA_SUCCESS;
    for (std::size_t piece = kLargestPiece; piece >= kSmallest;) {
      CUdeviceptr p = 0;
      last = cu.cuMemAlloc_v2(&p, piece);
      if (last == CUDA_SUCCESS) {
        held.push_back(p);
        bytes += piece;
      } else {
        piece /= 2;
      }
    }
    return fmt::format("filled {} {}", bytes, static_cast<int>(last));
  }

  std::string memory() {
    std::size_t free = 0;
    std::size_t total = 0;
    std::size_t device_total = 0;
    cu.cuMemGetInfo_v2(&free, &total);
    cu.cuDeviceTotalMem_v2(&device_total, 0);
    return fmt::format("memory {} {} {}", total, device_total, free);
  }

  std::string drop() {
    for (const CUdeviceptr p : held) cu.cuMemFree_v2(p);
    held.clear();
    return "dropped";
  }
};

}  // namespace

int demo_worker() {
  auto cu = open_driver("");
  if (!cu.ok()) {
    answer("failed " + cu.problem);
    return kExitProblem;
  }
  Worker worker{*cu, {}};
  answer(worker.begin());
  for (std::string order; std::getline(std::cin, order);) {
    if (order == "fill") answer(worker.fill());
    if (order == "memory") answer(worker.memory());
    if (order == "drop") answer(worker.drop());
  }
  return kExitOk;
}

}  // namespace bulkhead::cli
