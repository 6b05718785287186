// What the threads beside the control loop have to say of the audit log: lines, until the loop takes them.
#pragma once
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"

namespace bulkhead::daemon {

class AuditNews {
 public:
  struct One {
    bool good = false;  // nothing is to be done about it
    std::string text;
  };
  static constexpr std::size_t kMost = 256;

  AuditNews() : fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
  // Any thread; never waits. Beyond kMost that nobody took the newest are dropped.
  void put(bool good, std::string text) {
    {
      const std::lock_guard held{mutex_};
      if (lines_.size() < kMost) lines_.push_back({good, std::move(text)});
    }
    const std::uint64_t one = 1;
    (void)!::write(fd_.get(), &one, sizeof one);
  }
  [[nodiscard]] std::vector<One> take() {
    std::uint64_t count = 0;
    (void)!::read(fd_.get(), &count, sizeof count);
    const std::lock_guard held{mutex_};
    return std::exchange(lines_, {});
  }
  // Readable when there is something.
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
  std::mutex mutex_;
  std::vector<One> lines_;
};

}  // namespace bulkhead::daemon
