// Workers of row 6: races at the limit, and processes that are killed.
#include <random>
#include <vector>

#include "base/clock.h"
#include "bench/worker.h"

namespace bulkhead::bench {
namespace {

void remember(Worker& w, std::uint64_t begin, std::uint64_t end, std::uint64_t bytes,
              LogEntry::Kind kind) {
  if (w.out->log_count < kLogEntries) w.out->log[w.out->log_count++] = {begin, end, bytes, kind};
}

// Fills what is left with halving requests; returns the bytes obtained.
std::uint64_t fill_rest(Worker& w, std::uint64_t largest) {
  std::uint64_t got = 0;
  for (std::uint64_t n = largest; n >= 2 * kMiB;) {
    CUdeviceptr p = 0;
    if (w.cu.cuMemAlloc_v2(&p, n) == CUDA_SUCCESS)
      got += n;
    else
      n = n / 2 / (2 * kMiB) * (2 * kMiB);
  }
  return got;
}

}  // namespace

// Random sizes (multiples of 2 MiB, so that the request is the charge), taken until refused, then some given back.
// Every call is logged with its begin and end; value[0] what is free once all have a context.
int work_race(Worker& w) {
  if (!w.begin()) return 1;
  if (!w.turn('c')) return 1;  // all have a context: what is free now is what the race is about
  std::size_t free = 0, total = 0;
  w.cu.cuMemGetInfo_v2(&free, &total);
  w.out->value[0] = static_cast<double>(free);
  w.out->value[1] = static_cast<double>(total);
  const double rate = ns_per_tick();
  std::mt19937_64 random(w.params.number("seed") * 1000 + w.params.number("index"));
  std::vector<std::pair<CUdeviceptr, std::uint64_t>> held;
  if (!w.turn('r')) return 1;
  const auto length =
      static_cast<std::uint64_t>(static_cast<double>(w.params.number("ms", 2000)) * 1e6 / rate);
  const std::uint64_t stop = ticks() + length;
  auto give = [&](std::size_t i) {
    const std::uint64_t a = ticks();
    w.cu.cuMemFree_v2(held[i].first);
    remember(w, a, ticks(), held[i].second, LogEntry::kFreed);
    held[i] = held.back();
    held.pop_back();
  };
  while (ticks() < stop && w.out->log_count < kLogEntries - 4) {
    const std::uint64_t n = (1 + random() % w.params.number("most_units", 256)) * 2 * kMiB;
    CUdeviceptr p = 0;
    const std::uint64_t a = ticks();
    const CUresult r = w.cu.cuMemAlloc_v2(&p, n);
    const std::uint64_t b = ticks();
    if (r != CUDA_SUCCESS && r != CUDA_ERROR_OUT_OF_MEMORY)
      return w.fail("a refusal is another code than 2", r);
    remember(w, a, b, n, r == CUDA_SUCCESS ? LogEntry::kGranted : LogEntry::kRefused);
    if (r == CUDA_SUCCESS) held.emplace_back(p, n);
    while (!held.empty() && (r != CUDA_SUCCESS || random() % 4 == 0)) {
      give(random() % held.size());
      if (random() % 2 == 0) break;
    }
  }
  if (!w.turn('e')) return 1;  // holds what it holds while the bench looks
  w.cu.cuMemGetInfo_v2(&free, &total);
  w.out->value[2] = static_cast<double>(free);
  return w.turn('x') ? 0 : 1;
}

// Takes `bytes` in 1 GiB pieces and holds them until killed.
int work_hold(Worker& w) {
  if (!w.begin()) return 1;
  for (std::uint64_t left = w.params.number("bytes"); left != 0;) {
    const std::uint64_t n = left < 1024 * kMiB ? left : 1024 * kMiB;
    CUdeviceptr p = 0;
    const CUresult r = w.cu.cuMemAlloc_v2(&p, n);
    if (r != CUDA_SUCCESS) return w.fail("cuMemAlloc", r);
    left -= n;
  }
  return w.turn('r') ? 0 : 1;
}

// Ready with a context; then, at the bench's byte, asks for `bytes` until it gets them (at most 8 s), then for all the
// rest. value[0]: CLOCK_MONOTONIC ns of the first success, value[1]: tries before it, value[2]: bytes got in all.
int work_take(Worker& w) {
  if (!w.begin()) return 1;
  if (!w.turn('r')) return 1;
  const std::uint64_t want = w.params.number("bytes");
  const std::uint64_t give_up = monotonic_ns() + 8'000'000'000;
  CUdeviceptr p = 0;
  CUresult r = CUDA_ERROR_OUT_OF_MEMORY;
  while (want != 0 && (r = w.cu.cuMemAlloc_v2(&p, want)) != CUDA_SUCCESS &&
         monotonic_ns() < give_up)
    w.out->value[1] += 1;
  w.out->value[0] = static_cast<double>(monotonic_ns());
  w.out->value[2] = (want != 0 && r == CUDA_SUCCESS ? static_cast<double>(want) : 0);
  if (want == 0 || r == CUDA_SUCCESS)
    w.out->value[2] += static_cast<double>(fill_rest(w, 512 * kMiB));
  return w.turn('f') ? 0 : 1;
}

// Takes and gives back at random until killed.
int work_churn(Worker& w) {
  if (!w.begin()) return 1;
  std::mt19937_64 random(w.params.number("seed") * 1000 + w.params.number("index"));
  std::vector<CUdeviceptr> held;
  w.say('r');
  for (;;) {
    CUdeviceptr p = 0;
    const std::uint64_t n = random() % 8 == 0 ? 64 * kMiB : 1 + random() % (4 * kMiB);
    const bool async = random() % 4 == 0;
    const CUresult r = async ? w.cu.cuMemAllocAsync(&p, n, nullptr) : w.cu.cuMemAlloc_v2(&p, n);
    if (r == CUDA_SUCCESS) held.push_back(p);
    while (!held.empty() && (r != CUDA_SUCCESS || held.size() > 64 || random() % 2 == 0)) {
      w.cu.cuMemFree_v2(held.back());
      held.pop_back();
    }
  }
}

}  // namespace bulkhead::bench
