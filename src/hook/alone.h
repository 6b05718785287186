// Whether the calling thread is the only one of this process that ever came here: then a word of the process's own can
// be changed by a load and a store where others need a locked instruction (5 to 8 ns each).
//
// Claim  of two threads that are both told yes one is dead.
// Proof  first is null, then the first thread's mark, then kMany for good; a mark is an address of thread-local
//        storage, so only a thread that took over the storage of a dead one can find its own.
// Price  the answer holds for the past: while a second thread comes, the first may be between its load and its store. So
//        only for hints, and for statistics whose word nobody but the first thread writes.
#pragma once
#include <atomic>

namespace bulkhead::hook {

[[gnu::visibility("hidden")]] inline thread_local constinit char thread_mark
    __attribute__((tls_model("initial-exec"))) = 0;
[[gnu::visibility("hidden")]] inline constinit char many_threads = 0;  // its address is kMany
[[gnu::visibility("hidden")]] inline constinit std::atomic<const char*> first_thread{nullptr};

[[gnu::cold, gnu::noinline]] inline bool become_first() noexcept {
  const char* seen = nullptr;
  // relaxed: the word is the whole of it
  if (first_thread.compare_exchange_strong(seen, &thread_mark, std::memory_order_relaxed)) {
    return true;
  }
  if (seen != &many_threads)
    first_thread.store(&many_threads, std::memory_order_relaxed);  // as above
  return false;
}

[[gnu::always_inline]] inline bool alone() noexcept {
  const char* const first =
      first_thread.load(std::memory_order_relaxed);  // the word is the whole of it
  if (first == &thread_mark) [[likely]]
    return true;
  return first != &many_threads && become_first();
}

// In the child of a fork, which has one thread.
inline void forget_threads() noexcept {
  first_thread.store(nullptr, std::memory_order_relaxed);  // as above
}

}  // namespace bulkhead::hook
