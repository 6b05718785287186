// The supervisor's half of a region: what the driver was measured to take, and how much of a device
// each process was seen to hold beyond its books. The parent of `run` is the supervisor, later the
// daemon; one at a time (it holds an open-file-description lock on byte kSupervisorByte).
#pragma once
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>

#include "shm/region.h"

namespace bulkhead::shm {

inline constexpr unsigned kSupervisorByte = kMaxSlots + 1;

// What the driver takes on one device, in bytes; 0 = not measured (docs/formats/calibration.md).
struct ChargeFacts {
  std::uint64_t context_bytes = 0;
  std::uint64_t extra_context_bytes = 0;
  std::uint64_t alloc_granularity = 0;
  std::uint64_t small_slab_bytes = 0;
  std::uint64_t array_granularity = 0;
  std::uint64_t pool_granularity = 0;
};

// Caller: the creator, before it starts the tenant's first process.
inline void publish_facts(Region& r, unsigned dev, const ChargeFacts& f) noexcept {
  DeviceEntry& d = r.devices[dev];
  // orders: relaxed, each word is a fact on its own and the tenant's processes start after this
  d.context_bytes.store(f.context_bytes, std::memory_order_relaxed);
  d.extra_context_bytes.store(f.extra_context_bytes, std::memory_order_relaxed);
  d.alloc_granularity.store(f.alloc_granularity, std::memory_order_relaxed);
  d.small_slab_bytes.store(f.small_slab_bytes, std::memory_order_relaxed);
  d.array_granularity.store(f.array_granularity, std::memory_order_relaxed);
  d.pool_granularity.store(f.pool_granularity, std::memory_order_relaxed);
}

inline void wake_all(AtomicU32& word) noexcept {
  ::syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

// What a process was seen to hold beyond its books, and what it had booked as `other` when it was seen: one word, in
// pages of 4 KiB rounded up (16 TiB each). A figure says nothing about books that have another `other` by now.
struct Observed {
  std::uint64_t beyond_bytes = 0;
  std::uint64_t other_bytes = 0;
};
inline constexpr std::uint64_t kObservedPage = 4096;
inline constexpr std::uint64_t kObservedMost = 0xffff'ffff;
[[nodiscard]] constexpr std::uint64_t observed_pages(std::uint64_t bytes) noexcept {
  const std::uint64_t pages = bytes / kObservedPage + (bytes % kObservedPage != 0 ? 1 : 0);
  return pages < kObservedMost ? pages : kObservedMost;
}
[[nodiscard]] constexpr std::uint64_t observed_word(Observed o) noexcept {
  return observed_pages(o.beyond_bytes) << 32 | observed_pages(o.other_bytes);
}
// What to add to an `other` of `booked_bytes`, in bytes; 0 if the figure is of other books.
[[nodiscard]] constexpr std::int64_t observed_delta(std::uint64_t word,
                                                    std::uint64_t booked_bytes) noexcept {
  const std::uint64_t beyond = word >> 32, other = word & kObservedMost;
  if (observed_pages(booked_bytes) != other) return 0;
  return (static_cast<std::int64_t>(beyond) - static_cast<std::int64_t>(other)) *
         static_cast<std::int64_t>(kObservedPage);
}

// Tells a process what it holds on `dev` beyond its books. It corrects them itself.
inline void publish_observed(Region& r, unsigned slot, unsigned dev, Observed o) noexcept {
  r.observed[dev][slot].store(observed_word(o), std::memory_order_relaxed);  // ordered by poke
  // release pairs with the acquire load of poke in the process's own thread
  r.slots[slot].poke.fetch_add(1, std::memory_order_release);
  wake_all(r.slots[slot].poke);
}

// A round is over: everything seen in it is published. `beat_s` = CLOCK_BOOTTIME seconds, 0 = I
// leave.
inline void publish_round(Region& r, std::uint64_t beat_s) noexcept {
  r.header.sampler_beat_s.store(beat_s, std::memory_order_relaxed);  // ordered by sampled
  // release pairs with the acquire load of sampled by a process that asked
  r.header.sampled.fetch_add(1, std::memory_order_release);
  wake_all(r.header.sampled);
}

// The daemon: from now on (again, at each of its starts) the node page binds this region. Its processes map the page
// when they see the word change, within a second.
inline void raise_adopted(Region& r) noexcept {
  // release pairs with the acquire in the library's own thread: the page is in its place
  r.header.adopted.fetch_add(1, std::memory_order_release);
}
inline void set_on_fault(Region& r, OnFault value) noexcept {
  r.header.on_fault.store(value, std::memory_order_relaxed);  // a fact on its own
}

// Sleeps until `ask` is no longer `seen`, or `timeout_ns` passed, or for no reason. Returns its
// value.
inline std::uint32_t wait_for_ask(Region& r, std::uint32_t seen,
                                  std::uint64_t timeout_ns) noexcept {
  const timespec t{static_cast<time_t>(timeout_ns / 1'000'000'000),
                   static_cast<long>(timeout_ns % 1'000'000'000)};
  ::syscall(SYS_futex, &r.header.ask, FUTEX_WAIT, seen, &t, nullptr, 0);
  // acquire pairs with the release add of a process that asks
  return r.header.ask.load(std::memory_order_acquire);
}

}  // namespace bulkhead::shm
