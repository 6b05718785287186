// SequenceWord: one writer, any number of readers of data that lies beside it in shared memory. The writer makes it
// odd, writes, makes it even again; a reader copies between two equal even values, else its copy is torn.
//
// The data itself is copied as plain bytes: a torn copy is thrown away, never looked at (Boehm, "Can seqlocks get
// along with programming language memory models?", 2012). A writer that dies while it is odd leaves it odd: readers
// must have a bound.
#pragma once
#include <atomic>
#include <cstdint>

namespace bulkhead {

class SequenceWord {
 public:
  void begin_write() noexcept {
    const std::uint64_t s = word_.load(std::memory_order_relaxed);  // one writer
    word_.store(s | 1, std::memory_order_relaxed);                  // ordered by the fence
    std::atomic_thread_fence(
        std::memory_order_release);  // pairs with the fence in torn(): odd before the data
  }
  void end_write() noexcept {
    const std::uint64_t s = word_.load(std::memory_order_relaxed);  // one writer
    word_.store((s | 1) + 1, std::memory_order_release);            // pairs with begin_read()
  }
  // Odd: being written, do not copy.
  [[nodiscard]] std::uint64_t begin_read() const noexcept {
    return word_.load(std::memory_order_acquire);  // pairs with end_write()
  }
  // Whether what was copied since begin_read() answered `began` is to be thrown away.
  [[nodiscard]] bool torn(std::uint64_t began) const noexcept {
    std::atomic_thread_fence(std::memory_order_acquire);  // pairs with begin_write()
    return (began & 1) != 0 ||
           word_.load(std::memory_order_relaxed) != began;  // ordered by the fence
  }

 private:
  std::atomic<std::uint64_t> word_;
};
static_assert(sizeof(SequenceWord) == 8 && std::atomic<std::uint64_t>::is_always_lock_free);

}  // namespace bulkhead
