// A lock between the threads of this process, for cold paths only. One word, no libc.
//
// The word names the process of its holder: a fork's child that finds its parent's word takes the
// lock over, for the thread that held it does not exist there. Nothing has to be reset, whoever forked
// and however. (A vfork's child must not come here; POSIX lets it do nothing but exec.)
#pragma once
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

namespace bulkhead::hook {

class PrivateLock {
 public:
  void lock() noexcept {
    const int saved = errno;
    const std::uint32_t mine = static_cast<std::uint32_t>(::getpid()) << 1;
    std::uint32_t bit = 0;  // others may wait as soon as we did
    for (;;) {
      std::uint32_t was = 0;
      // acquire pairs with the release in unlock()
      if (word_.compare_exchange_strong(was, mine | bit, std::memory_order_acquire,
                                        std::memory_order_relaxed)) {
        break;
      }
      if ((was >> 1) != (mine >> 1)) {  // the parent's: nobody here will ever release it
        if (word_.compare_exchange_strong(was, mine | bit, std::memory_order_acquire,
                                          std::memory_order_relaxed)) {  // as above
          break;
        }
        continue;
      }
      // relaxed: only tells the holder to wake somebody
      if ((was & 1) == 0 && !word_.compare_exchange_strong(was, was | 1, std::memory_order_relaxed,
                                                           std::memory_order_relaxed)) {
        continue;
      }
      bit = 1;
      ::syscall(SYS_futex, &word_, FUTEX_WAIT_PRIVATE, was | 1, nullptr, nullptr, 0);
    }
    errno = saved;
  }
  void unlock() noexcept {
    const int saved = errno;
    if ((word_.exchange(0, std::memory_order_release) & 1) != 0) {  // pairs with lock()
      ::syscall(SYS_futex, &word_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
    }
    errno = saved;
  }

 private:
  std::atomic<std::uint32_t> word_{0};  // 0 free, else pid << 1 | somebody waits
};

class Held {
 public:
  explicit Held(PrivateLock& lock) noexcept : lock_(lock) { lock_.lock(); }
  ~Held() { lock_.unlock(); }
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;

 private:
  PrivateLock& lock_;
};

// For cold paths that make system calls: errno stays as the caller of a driver function left it, and a
// pending pthread_cancel waits, for it would unwind through functions that cannot be unwound.
class Undisturbed {
 public:
  Undisturbed() noexcept : saved_(errno) {
    ::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_);
  }
  ~Undisturbed() {
    ::pthread_setcancelstate(cancel_, nullptr);
    errno = saved_;
  }
  Undisturbed(const Undisturbed&) = delete;
  Undisturbed& operator=(const Undisturbed&) = delete;

 private:
  int saved_;
  int cancel_ = 0;
};

}  // namespace bulkhead::hook
