// A lock between the threads of this process, for cold paths only. One word, no libc: usable before
// and after fork, and the child frees it by clear() (its holder does not exist there).
#pragma once
#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

namespace bulkhead::hook {

class PrivateLock {
 public:
  void lock() noexcept {
    const int saved = errno;
    std::uint32_t was = 0;
    // acquire pairs with the release in unlock(), here and below
    if (!word_.compare_exchange_strong(was, 1, std::memory_order_acquire,
                                       std::memory_order_relaxed)) {
      while (word_.exchange(2, std::memory_order_acquire) != 0) {
        ::syscall(SYS_futex, &word_, FUTEX_WAIT_PRIVATE, 2, nullptr, nullptr, 0);
      }
    }
    errno = saved;
  }
  [[nodiscard]] bool try_lock() noexcept {
    std::uint32_t was = 0;
    return word_.compare_exchange_strong(was, 1, std::memory_order_acquire,
                                         std::memory_order_relaxed);  // as above
  }
  void unlock() noexcept {
    const int saved = errno;
    if (word_.exchange(0, std::memory_order_release) == 2) {  // pairs with lock()
      ::syscall(SYS_futex, &word_, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
    }
    errno = saved;
  }
  void clear() noexcept { word_.store(0, std::memory_order_relaxed); }  // the child has one thread

 private:
  std::atomic<std::uint32_t> word_{0};  // 0 free, 1 held, 2 held and waited for
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

// Keeps errno as the caller of a driver function left it.
class KeepErrno {
 public:
  KeepErrno() noexcept : saved_(errno) {}
  ~KeepErrno() { errno = saved_; }
  KeepErrno(const KeepErrno&) = delete;
  KeepErrno& operator=(const KeepErrno&) = delete;

 private:
  int saved_;
};

}  // namespace bulkhead::hook
