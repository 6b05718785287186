// The end of a process, told by the kernel in one word of shared memory.
//
// The owner of a slot keeps a thread that lives as long as the process. The thread puts its id in the
// slot's witness word and the word on its robust list: when the thread ends, by exit, exec or SIGKILL,
// the kernel puts FUTEX_OWNER_DIED there before any other process can see the death
// (set_robust_list(2); Documentation/locking/robust-futexes.rst: only if the word still holds the id of
// the thread that ends). The mark is a hint to ask for the dead, never the proof: slots.h has the rule.
#pragma once
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

#include "shm/region.h"

namespace bulkhead::shm {

// Lives in the thread that stands, as long as it does; the kernel keeps a pointer to it. That thread
// must not lock a robust mutex of libc's: a thread has one list.
class Witness {
 public:
  Witness() noexcept = default;
  Witness(const Witness&) = delete;
  Witness& operator=(const Witness&) = delete;

  // From now on the calling thread stands for `slot`, and for no other.
  void stand(Region& r, unsigned slot) noexcept {
    AtomicU32& word = r.slots[slot].witness;
    node_.next = &head_.list;
    head_.list.next = &node_;
    head_.futex_offset = reinterpret_cast<char*>(&word) - reinterpret_cast<char*>(&node_);
    head_.list_op_pending = nullptr;
    if (::syscall(SYS_set_robust_list, &head_, sizeof head_) != 0) return;  // 0 = no witness
    // release pairs with look_for_ends(): whoever sees a witness may rely on the list above
    word.store(static_cast<std::uint32_t>(::syscall(SYS_gettid)), std::memory_order_release);
  }

 private:
  robust_list node_{};
  robust_list_head head_{};
};

}  // namespace bulkhead::shm
