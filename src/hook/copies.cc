#include "hook/copies.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "hook/compute.h"
#include "hook/compute_books.h"
#include "hook/gate.h"
#include "hook/own_counts.h"
#include "hook/process.h"
#include "hook/thread_launch.h"
#include "policy/compute/copy_pace.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

// A copy is of a stream that is not told here: only a wait for the context covers it.
const auto kNoStream = reinterpret_cast<CUstream>(~std::uintptr_t{0});

// Of a device < kMaxDevices. Null: nothing to count in.
[[gnu::always_inline]] inline shm::ComputeEntry* books_of(unsigned device) noexcept {
  // acquire pairs with bind_locked(): the region is mapped
  if (process.mode.load(std::memory_order_acquire) != Mode::kOn) return nullptr;
  return process.devices[device].compute;
}

[[gnu::cold, gnu::noinline]] void charge(shm::ComputeEntry& e, std::uint64_t bytes,
                                         std::uint32_t rate) noexcept {
  shares::charge_copy(e.copy_tat_ns, monotonic_ns(), bytes, rate);
}

[[gnu::noinline]] void note_shared(shm::ComputeEntry& e, std::uint64_t bytes,
                                   CopyDirection direction) noexcept {
  e.moved_bytes[static_cast<unsigned>(direction)].fetch_add(bytes, kRelaxed);  // a statistic
  count_class(e, StreamClass::kCopy);
  may_count_own();
  const std::uint32_t rate = e.copy_rate_mb_s.load(kRelaxed);  // a number
  if (rate != 0) charge(e, bytes, rate);
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

// A latency tenant's, or one with a rate.
[[gnu::noinline]] bool admit_at_length(shm::ComputeEntry& e, unsigned device) noexcept {
  gate_raise(device, kNoStream);
  if (e.copy_rate_mb_s.load(kRelaxed) == 0) return true;  // a number, read anew
  // acquire pairs with a capture's beginning in this thread or one that told it
  if (thread_launch.in_callback || captures.load(std::memory_order_acquire) != 0) return true;
  const std::uint64_t now = monotonic_ns();
  // relaxed: the word orders nothing but itself
  if (shares::copy_wait_ns(e.copy_tat_ns.load(kRelaxed), now, 0) != 0) [[unlikely]]
    wait_for_rate(e, now);
  return true;
}

}  // namespace

bool copy_admit(unsigned device, std::uint64_t, CopyDirection) noexcept {
  shm::ComputeEntry* const e = books_of(device);
  if (e == nullptr) [[unlikely]]
    return true;
  // relaxed, both: numbers; who acts on them asks again
  if (latency_gate.latency.load(kRelaxed) || e->copy_rate_mb_s.load(kRelaxed) != 0) [[unlikely]]
    return admit_at_length(*e, device);
  return true;
}

void note_copy(unsigned device, std::uint64_t bytes, CopyDirection direction) noexcept {
  shm::ComputeEntry* const e = books_of(device);
  if (e == nullptr) return;
  // relaxed: a number; who takes a slot writes it before anybody counts there
  if (device != own_copies_of.load(kRelaxed) || !counts_own()) [[unlikely]]
    return note_shared(*e, bytes, direction);
  shm::ProcSlot& slot = *place_now().slot;
  shm::add_alone(slot.own_moved[static_cast<unsigned>(direction)], bytes);
  shm::count_alone(slot.own_copies);
  const std::uint32_t rate = e->copy_rate_mb_s.load(kRelaxed);  // a number
  if (rate != 0) [[unlikely]]
    charge(*e, bytes, rate);
}

}  // namespace bulkhead::hook
