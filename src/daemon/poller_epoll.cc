#include "daemon/poller_epoll.h"

#include <errno.h>
#include <sys/epoll.h>

#include <utility>

namespace bulkhead::daemon {

EpollPoller::EpollPoller() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {}

Status EpollPoller::add(int fd, std::uint32_t events, Handler handler) {
  remove(fd);
  const std::uint64_t number = next_++;
  epoll_event event{};
  event.events = events;
  event.data.u64 = number;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return Status{Errc::kIo, errno, "cannot watch a descriptor"};
  }
  by_fd_[fd] = number;
  registrations_[number] = {fd, std::make_shared<Handler>(std::move(handler))};
  return Status{};
}

Status EpollPoller::change(int fd, std::uint32_t events) {
  const auto it = by_fd_.find(fd);
  if (it == by_fd_.end()) return Status{Errc::kNotFound, 0, "no such descriptor is watched"};
  epoll_event event{};
  event.events = events;
  event.data.u64 = it->second;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) != 0) {
    return Status{Errc::kIo, errno, "cannot watch a descriptor"};
  }
  return Status{};
}

void EpollPoller::remove(int fd) {
  const auto it = by_fd_.find(fd);
  if (it == by_fd_.end()) return;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  registrations_.erase(it->second);
  by_fd_.erase(it);
}

int EpollPoller::wait(int timeout_ms) {
  epoll_event events[kMost];
  const int got = ::epoll_wait(epoll_.get(), events, kMost, timeout_ms);
  ready_count_ = got > 0 ? got : 0;
  for (int i = 0; i < ready_count_; ++i) ready_[i] = {events[i].data.u64, events[i].events};
  return ready_count_;
}

void EpollPoller::dispatch() {
  const int count = std::exchange(ready_count_, 0);
  for (int i = 0; i < count; ++i) {
    const auto it = registrations_.find(ready_[i].registration);
    if (it == registrations_.end()) continue;  // removed by an earlier handler of this turn
    const std::shared_ptr<Handler> kept = it->second.handler;
    (*kept)(ready_[i].events);
  }
}

}  // namespace bulkhead::daemon
