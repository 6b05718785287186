// Row 18: a trade engine's transaction. Market data come in (16 KiB to the device, from pinned memory), are added to the book by a
// kernel, a model takes its time, an order goes out (256 bytes back), and is looked at: an order that does not follow from the data
// ends the case.
#include <time.h>

#include <cerrno>
#include <cmath>

#include "base/clock.h"
#include "bench/ticks.h"
#include "bench/worker.h"
#include "kernels/kernels.h"

namespace bulkhead::bench {
namespace {

constexpr std::size_t kQuotes = 4096;  // f32
constexpr std::size_t kOrder = 64;     // f32

struct Engine {
  Api& cu;
  CUfunction add{}, model{};
  CUstream stream{};
  CUdeviceptr quotes = 0, book = 0, orders = 0;
  float* in = nullptr;
  float* out = nullptr;
  std::uint64_t model_ns = 0, number = 0;

  const char* open() {
    CUmodule module{};
    if (cu.cuModuleLoadData(&module, kernels::kPtx) != CUDA_SUCCESS ||
        cu.cuModuleGetFunction(&add, module, "bh_vector_add") != CUDA_SUCCESS ||
        cu.cuModuleGetFunction(&model, module, "bh_spin") != CUDA_SUCCESS)
      return "the kernels";
    void *a = nullptr, *b = nullptr;
    if (cu.cuStreamCreate(&stream, 1) != CUDA_SUCCESS) return "a stream";
    if (cu.cuMemAllocHost_v2(&a, kQuotes * 4) != CUDA_SUCCESS ||
        cu.cuMemAllocHost_v2(&b, kOrder * 4) != CUDA_SUCCESS)
      return "pinned memory";
    in = static_cast<float*>(a);
    out = static_cast<float*>(b);
    for (CUdeviceptr* p : {&quotes, &book, &orders})
      if (cu.cuMemAlloc_v2(p, kQuotes * 4) != CUDA_SUCCESS ||
          cu.cuMemsetD8_v2(*p, 0, kQuotes * 4) != CUDA_SUCCESS)
        return "memory";
    return nullptr;
  }
  bool transaction() {
    const auto price = static_cast<float>(++number % 1000);
    in[0] = in[kOrder - 1] = price;
    std::uint64_t n = kQuotes;
    void* of_add[] = {&orders, &quotes, &book, &n};
    void* of_model[] = {&model_ns};
    const bool queued =
        cu.cuMemcpyHtoDAsync_v2(quotes, in, kQuotes * 4, stream) == CUDA_SUCCESS &&
        cu.cuLaunchKernel(add, 16, 1, 1, 256, 1, 1, 0, stream, of_add, nullptr) == CUDA_SUCCESS &&
        cu.cuLaunchKernel(model, 1, 1, 1, 32, 1, 1, 0, stream, of_model, nullptr) == CUDA_SUCCESS &&
        cu.cuMemcpyDtoHAsync_v2(out, orders, kOrder * 4, stream) == CUDA_SUCCESS;
    return queued && cu.cuStreamSynchronize(stream) == CUDA_SUCCESS && out[0] == price &&
           out[kOrder - 1] == price;
  }
};

// Arrivals that know nothing of each other: exponential distances of mean 1, the same in every run.
struct Arrivals {
  std::uint64_t state = 0x9e3779b97f4a7c15;
  double next() {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return -std::log((static_cast<double>(state >> 11) + 0.5) / 9007199254740992.0);
  }
};

void sleep_until_ns(std::uint64_t at) {
  const timespec t{static_cast<time_t>(at / 1'000'000'000), static_cast<long>(at % 1'000'000'000)};
  while (::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, nullptr) == EINTR) {
  }
}

void wait_until(std::uint64_t due_ns) {
  constexpr std::uint64_t kSpin_ns = 100'000;  // a sleep wakes late: the rest is waited for awake
  if (due_ns > monotonic_ns() + kSpin_ns) sleep_until_ns(due_ns - kSpin_ns);
  while (monotonic_ns() < due_ns) __builtin_ia32_pause();
}

}  // namespace

// period_ns 0: one after the other, value[0] the mean ns of one. Else open loop: they arrive on average so far apart, whether or not the
// one before is done; histogram 0 holds ns from arrival to the order, so that whoever waits is counted (no coordinated omission).
int work_trade(Worker& w) {
  if (!w.begin()) return 1;
  Engine e{w.cu};
  e.model_ns = w.params.number("model_ns", 20'000);
  if (const char* what = e.open(); what != nullptr) return w.fail(what, CUDA_ERROR_NOT_PERMITTED);
  const auto failed = [&] { return w.fail("a transaction", CUDA_ERROR_UNKNOWN); };
  for (int i = 0; i < 200; ++i)
    if (!e.transaction()) return failed();
  if (!w.turn('r')) return 1;
  const std::uint64_t period_ns = w.params.number("period_ns");
  const std::uint64_t began = monotonic_ns(), end = began + w.params.number("ms", 1000) * 1'000'000;
  std::uint64_t done = 0;
  if (period_ns == 0) {
    while (monotonic_ns() < end) {
      if (!e.transaction()) return failed();
      ++done;
    }
    w.out->value[0] = static_cast<double>(monotonic_ns() - began) / static_cast<double>(done);
  } else {
    Arrivals arrivals;
    double due = static_cast<double>(began);
    for (; due < static_cast<double>(end); ++done) {
      due += arrivals.next() * static_cast<double>(period_ns);
      const auto at = static_cast<std::uint64_t>(due);
      wait_until(at);
      if (!e.transaction()) return failed();
      w.out->histogram[0].add(monotonic_ns() - at);
    }
  }
  w.out->value[1] = static_cast<double>(done);
  return w.turn('d') ? 0 : 1;
}

}  // namespace bulkhead::bench
