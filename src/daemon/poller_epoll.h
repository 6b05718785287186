// The control loop's epoll, as a Poller. One thread.
#pragma once
#include <memory>
#include <unordered_map>

#include "base/fd.h"
#include "daemon/poller.h"

namespace bulkhead::daemon {

class EpollPoller : public Poller {
 public:
  EpollPoller();
  [[nodiscard]] bool ok() const { return epoll_.ok(); }
  Status add(int fd, std::uint32_t events, Handler handler) override;
  Status change(int fd, std::uint32_t events) override;
  void remove(int fd) override;

  // Waits at most `timeout_ms` (-1: for ever) and fetches what is ready; dispatch() then calls its handlers. Two calls,
  // so that the loop reads its clocks in between. Returns how many are ready.
  int wait(int timeout_ms);
  void dispatch();

 private:
  // A descriptor's number may be used again within one turn: events carry the number of the registration.
  struct Registration {
    int fd;
    std::shared_ptr<Handler> handler;
  };
  UniqueFd epoll_;
  std::uint64_t next_ = 1;
  std::unordered_map<int, std::uint64_t> by_fd_;
  std::unordered_map<std::uint64_t, Registration> registrations_;
  struct Ready {
    std::uint64_t registration;
    std::uint32_t events;
  };
  static constexpr int kMost = 64;  // fetched in one turn: the duties come round in between
  Ready ready_[kMost]{};
  int ready_count_ = 0;
};

}  // namespace bulkhead::daemon
