#include "daemon/shim_looks.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "daemon/side_thread.h"

namespace bulkhead::daemon {

// Shared with its thread, which may outlive the rest.
struct ShimLooks::Job {
  Look look;
  std::uint32_t pid = 0;
  UniqueFd bell, done;
  std::mutex mutex;
  std::optional<bool> result;  // under mutex

  void run() {
    const bool has = look(pid);
    {
      const std::lock_guard lock{mutex};
      result = has;
    }
    const std::uint64_t one = 1;
    (void)!::write(done.get(), &one, sizeof one);
    (void)!::write(bell.get(), &one, sizeof one);
  }
};

ShimLooks::~ShimLooks() {
  if (poller_ != nullptr) poller_->remove(bell_.get());
}

Status ShimLooks::open(Poller& poller, Look look) {
  bell_ = UniqueFd{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  if (!bell_.ok()) return Status{Errc::kIo, errno, "no descriptor for looks at processes"};
  look_ = std::move(look);
  const Status added = poller.add(bell_.get(), EPOLLIN, [this](std::uint32_t) {
    std::uint64_t count = 0;
    (void)!::read(bell_.get(), &count, sizeof count);  // the tick looks
  });
  if (added.ok()) poller_ = &poller;
  return added;
}

// Null: there is no thread for it.
std::shared_ptr<ShimLooks::Job> ShimLooks::begin(std::uint32_t pid) const {
  auto job = std::make_shared<Job>();
  job->look = look_;
  job->pid = pid;
  job->bell = UniqueFd{::dup(bell_.get())};
  job->done = UniqueFd{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  if (!job->bell.ok() || !job->done.ok()) return nullptr;
  return run_beside(job) == 0 ? job : nullptr;
}

bool ShimLooks::has(std::uint32_t pid) const {
  return answered_ != nullptr && answered_->pid == pid && answered_has_;
}

bool ShimLooks::ask(const Process& process, Again again) {
  const auto same = [&process](const Process& p) {
    return p.pid == process.pid && p.start_ticks == process.start_ticks;
  };
  if (answered_ != nullptr && same(*answered_)) return true;
  const auto join = [&](auto& all) {
    const auto at = std::find_if(all.begin(), all.end(),
                                 [&](const Asked& asked) { return same(asked.process); });
    if (at == all.end()) return false;
    if (at->again.size() >= kMostAgain) {
      displaced_.push_back({at->process, {std::move(at->again.front())}, nullptr});
      at->again.erase(at->again.begin());
    }
    at->again.push_back(std::move(again));
    return true;
  };
  if (join(running_) || join(waiting_)) return false;
  make_room(process.tenant);
  waiting_.push_back({process, {}, nullptr});
  waiting_.back().again.push_back(std::move(again));
  begin_waiting();
  return false;
}

// A tenant whose looks hang asks as often as it likes: what waits for them stays few.
void ShimLooks::make_room(const std::string& tenant) {
  const auto is_its = [&tenant](const Asked& asked) { return asked.process.tenant == tenant; };
  if (std::count_if(waiting_.begin(), waiting_.end(), is_its) < static_cast<long>(kMostWaiting))
    return;
  const auto oldest = std::find_if(waiting_.begin(), waiting_.end(), is_its);
  displaced_.push_back(std::move(*oldest));
  waiting_.erase(oldest);
}

bool ShimLooks::may_begin(const Asked& asked) const {
  const auto of_one = std::count_if(running_.begin(), running_.end(), [&asked](const Asked& r) {
    return r.process.tenant == asked.process.tenant;
  });
  return running_.size() < kMost && static_cast<std::size_t>(of_one) < kMostOfOne;
}

// Those of a tenant that has as many as it may stay where they are; so do all while there is no thread to be had.
void ShimLooks::begin_waiting() {
  for (auto at = waiting_.begin(); at != waiting_.end() && running_.size() < kMost;) {
    if (!may_begin(*at)) {
      ++at;
      continue;
    }
    at->job = begin(at->process.pid);
    if (at->job == nullptr) return;
    running_.push_back(std::move(*at));
    at = waiting_.erase(at);
  }
}

void ShimLooks::answer(const Asked& asked, bool has) {
  answered_ = &asked.process;
  answered_has_ = has;
  for (const Again& again : asked.again) again();
  answered_ = nullptr;
}

int ShimLooks::tick(const Now&) {
  std::vector<std::pair<Asked, bool>> done;
  for (auto at = running_.begin(); at != running_.end();) {
    std::optional<bool> result;
    {
      // Held by the thread for a store only.
      const std::lock_guard lock{at->job->mutex};
      result = at->job->result;
    }
    if (!result) {
      ++at;
      continue;
    }
    done.emplace_back(std::move(*at), *result);
    at = running_.erase(at);
  }
  for (Asked& asked : std::exchange(displaced_, {})) done.emplace_back(std::move(asked), false);
  for (const auto& [asked, has] : done) answer(asked, has);
  begin_waiting();
  if (!displaced_.empty()) return 0;
  return running_.empty() && !waiting_.empty() ? 1000 : -1;  // no thread could be had
}

std::optional<bool> ShimLooks::wait(std::uint32_t pid, int most_ms) {
  const std::shared_ptr<Job> job = begin(pid);
  if (job == nullptr) return std::nullopt;
  pollfd done{job->done.get(), POLLIN, 0};
  (void)::poll(&done, 1, most_ms);
  const std::lock_guard lock{job->mutex};
  return job->result;
}

}  // namespace bulkhead::daemon
