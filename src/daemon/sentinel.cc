#include "daemon/sentinel.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/clock.h"
#include "daemon/proc.h"
#include "daemon/side_thread.h"

namespace bulkhead::daemon {
namespace {

constexpr std::uint64_t kReopenRounds = 30;           // without NVML it is tried again
constexpr std::uint64_t kRelistRounds = 60;           // GPUs and instances come and go
constexpr std::uint64_t kLongest_ns = 5'000'000'000;  // a longer span is not measured

}  // namespace

void Looker::open_nvml() {
  if (nvml_ || (rounds_ - 1) % kReopenRounds != 0) return;
  auto nvml = gpu::Nvml::open(options_.nvml_directory);
  if (!nvml.ok()) {
    problem_ = nvml.problem;
    return;
  }
  nvml_ = std::move(*nvml);
  ProcScanOptions scan;
  scan.root = options_.proc;
  scan.majors = gpu_majors(options_.proc);
  if (nvml_->simulated()) {
    scan.simulator = options_.simulator_state;
    scan.again_a_round = 4;  // each is a read of all its mappings
  }
  scan_.emplace(std::move(scan));
}

void Looker::list_devices() {
  if (!gpus_.empty() && rounds_ % kRelistRounds != 0) return;
  gpus_.clear();
  for (const gpu::NvmlGpu& gpu : nvml_->gpus()) {
    std::vector<gpu::NvmlGpu> parts = nvml_->instances(gpu);
    if (parts.empty()) parts.push_back(gpu);
    for (gpu::NvmlGpu& part : parts) gpus_.push_back(std::move(part));
  }
}

// The mean of a process's samples since the last round, over the time since then.
void Looker::look_at_gpu_time(Round& round, const gpu::NvmlGpu& gpu, RoundDevice& device) {
  const bool first = round.span_ns == 0 || round.span_ns > kLongest_ns;
  const auto shares = nvml_->shares(gpu.handle, static_cast<std::uint64_t>(before_.unix_ns) / 1000);
  device.gpu_time_known = shares.has_value() && !first;
  if (!device.gpu_time_known) return;
  struct Mean {
    std::uint64_t percents = 0, samples = 0;
  };
  std::map<std::uint32_t, Mean> means;
  for (const gpu::NvmlShare& s : *shares) {
    means[s.pid].percents += s.percent;
    ++means[s.pid].samples;
  }
  for (const auto& [pid, mean] : means) {
    const std::uint64_t ns = round.span_ns / 100 * mean.percents / mean.samples;
    round.gpu_times.push_back({pid, device.uuid, ns / 1'000'000,
                               static_cast<std::uint32_t>(mean.percents / mean.samples)});
  }
}

void Looker::look_at_devices(Round& round) {
  round.seen.uses_known = true;
  for (const gpu::NvmlGpu& gpu : gpus_) {
    const auto uuid = gpu::parse_uuid(gpu.uuid);
    if (!uuid) continue;
    RoundDevice device;
    device.uuid = *uuid;
    device.name = gpu.name;
    device.index = gpu.index;
    device.mig = gpu.mig;
    const auto memory = nvml_->memory(gpu.handle);
    const auto users = nvml_->users(gpu.handle);
    device.total_bytes = memory ? memory->total_bytes : gpu.total_bytes;
    device.reserved_bytes = memory ? memory->reserved_bytes : 0;
    device.used_bytes = memory ? memory->used_bytes : 0;
    if (const auto busy = nvml_->busy_percent(gpu.handle)) device.utilisation_x100 = *busy * 100;
    look_at_gpu_time(round, gpu, device);
    if (!users) {
      round.seen.uses_known = false;
    } else {
      for (const gpu::NvmlProcess& p : *users) {
        round.seen.uses.push_back({p.pid, device.uuid, p.bytes});
      }
    }
    round.devices.push_back(std::move(device));
  }
}

// Who is listed by NVML holds a device, whatever else /proc says of it.
void Looker::look_at_processes(Round& round) {
  std::vector<std::uint32_t> listed;
  for (const policy::SeenUse& use : round.seen.uses) listed.push_back(use.pid);
  std::sort(listed.begin(), listed.end());
  listed.erase(std::unique(listed.begin(), listed.end()), listed.end());
  const auto& holders = scan_->round(listed);
  table_.begin_round();
  for (const std::uint32_t pid : listed) {
    const policy::SeenProcess* const p = table_.get(pid);
    if (p == nullptr) continue;
    round.seen.processes.push_back(*p);
    round.seen.processes.back().holds_node = true;
  }
  for (const auto& [pid, start] : holders) {
    const policy::SeenProcess* const p = table_.get(pid);
    if (p == nullptr || p->start_ticks != start) continue;
    round.seen.processes.push_back(*p);
    round.seen.processes.back().holds_node = true;
  }
  table_.end_round();
}

Round Looker::look(const Now& now) {
  Round round;
  round.number = ++rounds_;
  round.mono_ns = now.mono_ns;
  round.span_ns = rounds_ == 1 ? 0 : now.mono_ns - before_.mono_ns;
  open_nvml();
  round.nvml = nvml_.has_value();
  if (nvml_) round.driver = nvml_->driver_version();
  round.problem = problem_;
  if (nvml_) {
    list_devices();
    look_at_devices(round);
    look_at_processes(round);
  }
  before_ = now;
  return round;
}

// Outlives the Sentinel if the thread hangs.
struct Sentinel::Shared {
  explicit Shared(SentinelOptions o) : options(std::move(o)) {}
  void work() {
    Looker looker{options};
    std::unique_lock lock{mutex};
    while (!stop) {
      lock.unlock();
      const Now now{monotonic_ns(), boottime_ns(),
                    static_cast<std::int64_t>(clock_ns(CLOCK_REALTIME))};
      Round round = looker.look(now);
      lock.lock();
      box = std::move(round);
      const std::uint64_t one = 1;
      if (::write(ready.get(), &one, sizeof one) < 0) {
      }  // full: it is readable already
      // a quarter longer than those who ask take: their rounds are not doubled by ours
      changed.wait_for(lock, std::chrono::milliseconds{options.period_ms + options.period_ms / 4},
                       [&] { return stop || asked; });
      asked = false;
    }
    ended = true;
    changed.notify_all();
  }
  SentinelOptions options;
  UniqueFd ready{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  std::mutex mutex;
  std::condition_variable changed;
  std::optional<Round> box;
  bool stop = false;
  bool asked = false;
  bool ended = false;
};

std::unique_ptr<Sentinel> Sentinel::start(SentinelOptions options) {
  std::unique_ptr<Sentinel> out{new Sentinel};
  out->shared_ = std::make_shared<Shared>(std::move(options));
  const NoSignals quiet;
  std::thread{[shared = out->shared_] { shared->work(); }}.detach();
  return out;
}

Sentinel::~Sentinel() {
  std::unique_lock lock{shared_->mutex};
  shared_->stop = true;
  shared_->changed.notify_all();
  shared_->changed.wait_for(lock, std::chrono::seconds{2}, [&] { return shared_->ended; });
}

void Sentinel::ask() {
  const std::lock_guard lock{shared_->mutex};  // held by the thread to hand a round over, no longer
  shared_->asked = true;
  shared_->changed.notify_all();
}

int Sentinel::ready_fd() const { return shared_->ready.get(); }

std::optional<Round> Sentinel::take() {
  std::uint64_t count = 0;
  if (::read(shared_->ready.get(), &count, sizeof count) < 0) return std::nullopt;  // none waits
  const std::lock_guard lock{shared_->mutex};
  std::optional<Round> out;
  out.swap(shared_->box);
  return out;
}

}  // namespace bulkhead::daemon
