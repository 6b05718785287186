#include "audit/sync_thread.h"

#include <chrono>

#include "base/clock.h"

namespace bulkhead::audit {

SyncThread::SyncThread(Writer& writer, SyncTimes times, std::function<void(const Status&)> told)
    : writer_(writer), times_(times), told_(std::move(told)), thread_([this] { work(); }) {}

SyncThread::~SyncThread() {
  {
    const std::lock_guard lock{mutex_};
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void SyncThread::tell(const Status& status) {
  if (status.code() == last_) return;
  last_ = status.code();
  if (told_) told_(status);
}

void SyncThread::work() {
  std::uint64_t next_tick_ns = 0;
  std::unique_lock lock{mutex_};
  while (!stop_) {
    changed_.wait_for(lock, std::chrono::milliseconds{times_.sync_ms}, [this] { return stop_; });
    lock.unlock();
    Status status = writer_.sync();
    const std::uint64_t now = monotonic_ns();
    if (status.ok() && now >= next_tick_ns) {
      next_tick_ns = now + std::uint64_t{times_.checkpoint_ms} * 1'000'000;
      status = writer_.tick();
    }
    tell(status);
    lock.lock();
  }
  lock.unlock();
  tell(writer_.finish());
}

}  // namespace bulkhead::audit
