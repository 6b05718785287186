// The control loop: one epoll, the duties, the clocks. It ends when stop() was called.
#pragma once
#include <functional>
#include <vector>

#include "daemon/duty.h"
#include "daemon/poller_epoll.h"

namespace bulkhead::daemon {

class Loop {
 public:
  explicit Loop(std::function<Now()> clock = read_clocks)
      : clock_(std::move(clock)), now_(clock_()) {}
  [[nodiscard]] EpollPoller& poller() { return poller_; }
  // Ticked in the order of their coming, in every turn. The duty stays the caller's.
  void add(Duty& duty) { duties_.push_back(&duty); }
  void run();
  // One turn: what is ready within `most_ms` (-1: until something is or a duty is due), then the duties.
  void turn(int most_ms = -1);
  void stop() { stopping_ = true; }
  // When the turn's wait ended: since then its handlers and duties run.
  [[nodiscard]] const Now& now() const { return now_; }
  [[nodiscard]] Now read_clock() const { return clock_(); }

 private:
  std::function<Now()> clock_;
  EpollPoller poller_;
  std::vector<Duty*> duties_;
  Now now_;
  int due_ms_ = 0;
  bool stopping_ = false;
};

}  // namespace bulkhead::daemon
