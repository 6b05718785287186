#include "daemon/loop.h"

#include <algorithm>

#include "base/clock.h"

namespace bulkhead::daemon {

Now read_clocks() noexcept {
  return Now{monotonic_ns(), boottime_ns(), static_cast<std::int64_t>(clock_ns(CLOCK_REALTIME))};
}

void Loop::turn(int most_ms) {
  const int wait_ms = due_ms_ < 0 ? most_ms : most_ms < 0 ? due_ms_ : std::min(due_ms_, most_ms);
  poller_.wait(wait_ms);
  now_ = clock_();
  poller_.dispatch();
  due_ms_ = -1;
  for (Duty* duty : duties_) {
    const int due = duty->tick(now_);
    if (due >= 0 && (due_ms_ < 0 || due < due_ms_)) due_ms_ = due;
  }
}

void Loop::run() {
  while (!stopping_) turn();
}

}  // namespace bulkhead::daemon
