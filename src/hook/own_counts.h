// Whether the calling thread writes its process's own words of shm/own.h: the first one that asked does, for as long as the process lives;
// the others count by locked instructions, with the tenant's other processes.
//
// Claim  of two threads that are both told yes one is dead.
// Proof  the word is null, then a thread's mark; a mark is an address of thread-local storage, so only a thread that took over the storage
//        of a dead one can find its own.
// Price  when the thread ends and none takes over its storage, nobody writes the own words any more.
#pragma once
#include <atomic>

#include "hook/alone.h"
#include "hook/process.h"
#include "shm/own.h"

namespace bulkhead::hook {

[[gnu::visibility("hidden")]] inline constinit std::atomic<const char*> counting_thread{nullptr};

// Of a call that is counted with the others: the next ones of this thread may be the process's own.
inline void may_count_own() noexcept {
  const char* seen = nullptr;
  // relaxed, both: the word is the whole of it
  if (counting_thread.load(std::memory_order_relaxed) == nullptr)
    counting_thread.compare_exchange_strong(seen, &thread_mark, std::memory_order_relaxed);
}
[[gnu::always_inline]] inline bool counts_own() noexcept {
  const char* const who = counting_thread.load(std::memory_order_relaxed);  // as above
  return who == &thread_mark;
}
// Device::number whose copies may be counted there, if the slot's words are of that device.
inline constexpr unsigned kOwnDevice = 0;
// That number, or one that no device has. Changed when the process takes a slot.
[[gnu::visibility("hidden")]] inline constinit std::atomic<std::uint32_t> own_copies_of{~0u};

// In the child of a fork, which has one thread.
inline void forget_counting() noexcept {
  counting_thread.store(nullptr, std::memory_order_relaxed);  // as above
}

}  // namespace bulkhead::hook
