#include "hook/stream_class.h"

#include <time.h>

#include <atomic>

#include "base/clock.h"
#include "hook/compute_books.h"

namespace bulkhead::hook {

constinit std::atomic<bool> stream_shapes{false};

namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr std::uint64_t kLook_ns = 20'000'000;

struct Shaped {
  std::atomic<std::uint64_t> key;  // the handle; 0: free
  shares::Bucket tat;
  std::atomic<std::uint32_t> x100;  // 0: free to run
};
constinit Shaped all[kShapedStreams]{};
constinit std::atomic<std::uint32_t> seen{
    0};  // streams that have launched so far: the next one's number

// Linear: few streams are shaped, and a place is found again after its stream is gone.
Shaped* find(std::uint64_t key) noexcept {
  for (Shaped& s : all)
    if (s.key.load(std::memory_order_acquire) == key) return &s;  // pairs with the release below
  for (Shaped& s : all) {
    std::uint64_t none = 0;
    // relaxed: claimed; nobody looks for this key before it is published by the release
    if (s.key.load(kRelaxed) != 0 || !s.key.compare_exchange_strong(none, ~key, kRelaxed, kRelaxed))
      continue;
    const std::uint32_t index = seen.fetch_add(1, kRelaxed) + 1;  // a count
    s.tat.store(0, kRelaxed);                                     // published below
    s.x100.store(shares::share_of_stream(settings().streams, index), kRelaxed);
    s.key.store(key, std::memory_order_release);  // pairs with the acquire above
    return &s;
  }
  return nullptr;
}

}  // namespace

std::uint64_t stream_hold(shm::ComputeEntry& e, CUstream stream, std::uint64_t predicted_ns,
                          std::uint64_t now) noexcept {
  const auto key = static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(stream));
  if (key <= kStreamPerThread) return now;
  Shaped* const s = find(key);
  const std::uint32_t x100 = s == nullptr ? 0 : s->x100.load(kRelaxed);  // one number
  if (x100 == 0) return now;
  const std::uint32_t us = e.burst_us.load(kRelaxed);  // as above
  const shares::Rules rules =
      shares::make_rules(x100, std::uint64_t{us == 0 ? shm::kBurst_us : us} * 1000);
  const std::uint64_t since = now;
  // relaxed: the word orders nothing but itself
  while (const std::uint64_t left = shares::wait_ns(s->tat.load(kRelaxed), now, rules)) {
    if (now - since >= rules.most_wait_ns) break;  // others keep charging it: they wait, too
    const Undisturbed keep;
    const std::uint64_t until = now + (left < kLook_ns ? left : kLook_ns);
    const timespec at{static_cast<time_t>(until / 1'000'000'000),
                      static_cast<long>(until % 1'000'000'000)};
    ::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr);
    now = monotonic_ns();
  }
  if (now != since) e.held_ns.fetch_add(now - since, kRelaxed);  // a statistic
  static_cast<void>(shares::charge(s->tat, now, predicted_ns, rules));
  return now;
}

void stream_forget(CUstream stream) noexcept {
  const auto key = static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(stream));
  for (Shaped& s : all) {
    std::uint64_t mine = key;
    // release pairs with find(): nobody of this stream looks at it any more
    if (s.key.compare_exchange_strong(mine, 0, std::memory_order_release, kRelaxed)) return;
  }
}

}  // namespace bulkhead::hook
