// Where a duty leaves the descriptors it wants to hear of: the control loop's epoll, or a fake in a test. Control loop
// only.
#pragma once
#include <cstdint>
#include <functional>

#include "base/status.h"

namespace bulkhead::daemon {

class Poller {
 public:
  // `ready`: the events that are pending, EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP (sys/epoll.h), level triggered.
  using Handler = std::function<void(std::uint32_t ready)>;

  Poller() = default;
  Poller(const Poller&) = delete;
  Poller& operator=(const Poller&) = delete;
  virtual ~Poller() = default;

  // Calls `handler` whenever `fd` has one of `events`, until remove(). The descriptor stays the caller's. kIo.
  virtual Status add(int fd, std::uint32_t events, Handler handler) = 0;
  // Other events for a descriptor that was added; its handler stays. kNotFound, kIo.
  virtual Status change(int fd, std::uint32_t events) = 0;
  // From the return of this on its handler is not called again, not even for an event that the turn in progress has
  // already fetched. Handlers may remove any descriptor, their own too (the running handler is destroyed after it has
  // returned). Call it before the descriptor is closed. Unknown descriptors are ignored.
  virtual void remove(int fd) = 0;
};

}  // namespace bulkhead::daemon
