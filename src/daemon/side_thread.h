// Threads beside the control loop. They take no signal: those are the loop's.
#pragma once
#include <pthread.h>
#include <signal.h>

#include <memory>
#include <utility>

namespace bulkhead::daemon {

// While it lives, a thread that this one starts has all signals blocked.
class NoSignals {
 public:
  NoSignals() noexcept {
    sigset_t all;
    sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~NoSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  NoSignals(const NoSignals&) = delete;
  NoSignals& operator=(const NoSignals&) = delete;

 private:
  sigset_t before_;
};

// job->run() on a detached thread, which holds the job and may outlive whoever asked. Returns 0, or why there is no thread (errno).
template <class Job>
[[nodiscard]] int run_beside(std::shared_ptr<Job> job) {
  auto held = std::make_unique<std::shared_ptr<Job>>(std::move(job));
  const auto body = [](void* mine) -> void* {
    const std::unique_ptr<std::shared_ptr<Job>> own{static_cast<std::shared_ptr<Job>*>(mine)};
    (*own)->run();
    return nullptr;
  };
  const NoSignals quiet;
  pthread_t thread{};
  const int failed = ::pthread_create(&thread, nullptr, body, held.get());
  if (failed != 0) return failed;
  static_cast<void>(held.release());  // the thread's
  ::pthread_detach(thread);
  return 0;
}

}  // namespace bulkhead::daemon
