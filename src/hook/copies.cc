#include "hook/copies.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "hook/compute.h"
#include "hook/compute_books.h"
#include "hook/gate.h"
#include "hook/process.h"
#include "hook/thread_launch.h"
#include "policy/compute/copy_pace.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

// A copy is of a stream that is not told here: only a wait for the context covers it.
const auto kNoStream = reinterpret_cast<CUstream>(~std::uintptr_t{0});

// Null: nothing to count in.
shm::ComputeEntry* books_of(unsigned device) noexcept {
  const Process& p = process;
  // acquire pairs with bind_locked(): the region is mapped
  if (p.mode.load(std::memory_order_acquire) != Mode::kOn) return nullptr;
  if (device >= static_cast<unsigned>(p.device_count)) return nullptr;
  return share_of(p.devices[device]);
}

// Until the bucket has room again, or the rate is gone; in slices, for it may change meanwhile.
[[gnu::cold, gnu::noinline]] void wait_for_rate(shm::ComputeEntry& e,
                                                std::uint64_t since) noexcept {
  const Undisturbed keep;
  std::uint64_t now = since;
  while (e.copy_rate_mb_s.load(kRelaxed) != 0) {  // a number, read anew
    const std::uint64_t left = shares::copy_wait_ns(e.copy_tat_ns.load(kRelaxed), now, now - since);
    if (left == 0) break;
    const std::uint64_t until = now + left;
    const timespec at{static_cast<time_t>(until / 1'000'000'000),
                      static_cast<long>(until % 1'000'000'000)};
    ::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr);
    now = monotonic_ns();
  }
  e.copy_held_ns.fetch_add(now - since, kRelaxed);  // a statistic
}

}  // namespace

bool copy_admit(unsigned device, std::uint64_t, CopyDirection) noexcept {
  shm::ComputeEntry* const e = books_of(device);
  if (e != nullptr) gate_raise(device, kNoStream);
  if (e == nullptr || e->copy_rate_mb_s.load(kRelaxed) == 0) [[likely]]  // a number, read anew
    return true;
  // acquire pairs with a capture's beginning in this thread or one that told it
  if (thread_launch.in_callback || captures.load(std::memory_order_acquire) != 0) return true;
  const std::uint64_t now = monotonic_ns();
  // relaxed: the word orders nothing but itself
  if (shares::copy_wait_ns(e->copy_tat_ns.load(kRelaxed), now, 0) != 0) [[unlikely]]
    wait_for_rate(*e, now);
  return true;
}

void note_copy(unsigned device, std::uint64_t bytes, CopyDirection direction) noexcept {
  shm::ComputeEntry* const e = books_of(device);
  if (e == nullptr) return;
  e->moved_bytes[static_cast<unsigned>(direction)].fetch_add(bytes, kRelaxed);  // a statistic
  count_class(*e, StreamClass::kCopy);
  const std::uint32_t rate = e->copy_rate_mb_s.load(kRelaxed);  // a number
  if (rate != 0) [[unlikely]]
    shares::charge_copy(e->copy_tat_ns, monotonic_ns(), bytes, rate);
}

}  // namespace bulkhead::hook
