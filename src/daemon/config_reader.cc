#include "daemon/config_reader.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>
#include <optional>

#include "daemon/side_thread.h"

namespace bulkhead::daemon {

// Shared by the thread and us; who goes last frees it.
struct ConfigReader::Job {
  Load load;
  std::string file;
  UniqueFd bell;
  std::mutex mutex;
  std::optional<Outcome<Config>> result;  // under mutex

  void run() {
    Outcome<Config> read = load(file);
    {
      const std::lock_guard lock{mutex};
      result.emplace(std::move(read));
    }
    const std::uint64_t one = 1;
    (void)!::write(bell.get(), &one, sizeof one);
  }
};

Status ConfigReader::open(Poller& poller) {
  bell_ = UniqueFd{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  if (!bell_.ok()) return Status{Errc::kIo, errno, "no descriptor for the configuration's reader"};
  return poller.add(bell_.get(), EPOLLIN, [this](std::uint32_t) {
    std::uint64_t count = 0;
    (void)!::read(bell_.get(), &count, sizeof count);  // the tick looks
  });
}

void ConfigReader::read(const Now& now, const std::string& file, Done done) {
  file_ = file;
  waiting_.push_back(std::move(done));
  if (job_ == nullptr) return begin(now);
  if (given_up_) {
    answer(waiting_, Outcome<Config>::because(
                         file + ": an earlier read of it still hangs; nothing was changed: look at "
                                "its file system, then reload again"));
  }
}

void ConfigReader::begin(const Now& now) {
  auto job = std::make_shared<Job>();
  job->load = load_;
  job->file = file_;
  job->bell = UniqueFd{::dup(bell_.get())};
  if (const int failed = run_beside(job); failed != 0) {
    return answer(waiting_, Outcome<Config>::because(
                                file_ + ": no thread to read it: " + std::strerror(failed)));
  }
  job_ = std::move(job);
  given_up_ = false;
  began_ns_ = now.mono_ns;
  served_ = std::move(waiting_);
  waiting_.clear();
}

void ConfigReader::answer(std::vector<Done>& to, Outcome<Config> read) {
  const std::vector<Done> all = std::move(to);
  to.clear();
  const Answer a = apply(std::move(read));
  for (const Done& done : all) done(a);
}

int ConfigReader::tick(const Now& now) {
  if (job_ == nullptr) return -1;
  // A read may begin in the turn whose beginning `now` is.
  const std::uint64_t lasted = now.mono_ns > began_ns_ ? now.mono_ns - began_ns_ : 0;
  std::optional<Outcome<Config>> result;
  {
    // Held by the thread for a move only.
    const std::lock_guard lock{job_->mutex};
    result.swap(job_->result);
  }
  if (result) {
    job_ = nullptr;
    if (!given_up_) answer(served_, std::move(*result));
    if (!waiting_.empty()) begin(now);
  } else if (!given_up_ && lasted >= kPatience_ns) {
    given_up_ = true;
    served_.insert(served_.end(), waiting_.begin(), waiting_.end());
    waiting_.clear();
    answer(served_, Outcome<Config>::because(
                        file_ + ": not read within 10 s; nothing was changed: look at its file "
                                "system, then reload again"));
  }
  if (job_ == nullptr || given_up_) return -1;
  const std::uint64_t left =
      lasted < kPatience_ns && !result ? kPatience_ns - lasted : kPatience_ns;
  return static_cast<int>(left / 1'000'000) + 1;
}

}  // namespace bulkhead::daemon
