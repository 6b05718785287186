// The thread that makes a log durable and signs it: sync() each sync_ms, tick() each checkpoint_ms. Appending never waits
// for it but at an epoch's end.
#pragma once
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "audit/writer.h"

namespace bulkhead::audit {

struct SyncTimes {
  unsigned sync_ms = 10;
  unsigned checkpoint_ms = 1000;
};

class SyncThread {
 public:
  // `told` hears, on this thread, of each change between good, full and failed (the status; ok: there is room again).
  SyncThread(Writer& writer, SyncTimes times, std::function<void(const Status&)> told);
  SyncThread(const SyncThread&) = delete;
  SyncThread& operator=(const SyncThread&) = delete;
  ~SyncThread();  // a last finish()

 private:
  void work();
  void tell(const Status& status);

  Writer& writer_;
  SyncTimes times_;
  std::function<void(const Status&)> told_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  Errc last_ = Errc::kOk;
  std::thread thread_;
};

}  // namespace bulkhead::audit
