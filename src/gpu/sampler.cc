#include "gpu/sampler.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "shm/quota.h"
#include "shm/slots.h"
#include "shm/supervise.h"
#include "shm/world.h"

namespace bulkhead::gpu {
namespace {

using shm::kMaxDevices;
using shm::kMaxSlots;
constexpr auto kRelaxed = std::memory_order_relaxed;  // everything read here is looked at twice

// What must not change while NVML is asked.
struct Books {
  std::uint64_t state = 0;
  std::uint64_t word = 0;
  std::uint64_t other = 0;
  std::uint64_t unseen = 0;
  std::uint64_t held = 0;
  bool operator==(const Books&) const = default;
};

class Sampler {
 public:
  Sampler(shm::Region& region, unsigned device_count, const Nvml& nvml)
      : region_(region), devices_(std::min(device_count, kMaxDevices)), nvml_(nvml) {
    for (unsigned d = 0; d < devices_; ++d) gpus_[d] = nvml.by_uuid(region.devices[d].uuid);
    namespace_ = shm::read_identity().pid_namespace;
  }

  // One round over all devices and slots. True: something moved since the last one.
  bool round() {
    const std::uint64_t now = monotonic_ns();
    const unsigned high = std::min<unsigned>(region_.header.slots_high.load(kRelaxed), kMaxSlots);
    bool moved = look_at_slots(high, now);
    for (unsigned d = 0; d < devices_; ++d) {
      if (gpus_[d] != nullptr && high != 0) moved |= sample(d, high, now);
    }
    shm::publish_round(region_, boottime_ns() / 1'000'000'000);
    return moved;
  }

 private:
  [[nodiscard]] Books read(unsigned slot, unsigned dev) const {
    const shm::MemCell& cell = region_.cells[dev][slot];
    return {region_.slots[slot].state.load(kRelaxed), cell.w.load(kRelaxed),
            cell.other_bytes.load(kRelaxed), cell.unseen_bytes.load(kRelaxed),
            shm::slot_held_bytes(region_, slot, dev)};
  }

  bool look_at_slots(unsigned high, std::uint64_t now) {
    bool young = false;
    for (unsigned s = 0; s < high; ++s) {
      const std::uint64_t state = region_.slots[s].state.load(kRelaxed);
      if (state != states_[s]) {
        states_[s] = state;
        seen_ns_[s] = now;
        for (unsigned d = 0; d < devices_; ++d) observed_[d][s].forget();
      }
      young |= shm::state_of(state) == shm::kLive && now - seen_ns_[s] < kYoung_ns;
    }
    return young;
  }

  bool sample(unsigned dev, unsigned high, std::uint64_t now) {
    before_.resize(high);
    for (unsigned s = 0; s < high; ++s) before_[s] = read(s, dev);
    const auto processes = nvml_.processes(gpus_[dev]);
    bool moved = false;
    for (unsigned s = 0; s < high; ++s) {
      const Books& books = before_[s];
      moved |= words_[dev][s] != books.word;
      words_[dev][s] = books.word;
      if (!processes || shm::state_of(books.state) != shm::kLive || read(s, dev) != books) continue;
      // Another namespace's pid may be one of ours by chance: it matches nothing.
      if (namespace_ == 0 || region_.slots[s].pid_namespace.load(kRelaxed) != namespace_) continue;
      const std::uint32_t pid = region_.slots[s].pid.load(kRelaxed);
      const auto seen = std::find_if(processes->begin(), processes->end(),
                                     [pid](const NvmlProcess& p) { return p.pid == pid; });
      if (seen != processes->end()) tell(s, dev, seen->bytes, books, now);
    }
    return moved;
  }

  void tell(unsigned slot, unsigned dev, std::uint64_t nvml_bytes, const Books& books,
            std::uint64_t now) {
    const std::uint64_t apart = books.other + books.unseen;
    const std::uint64_t asked = books.held > apart ? books.held - apart : 0;
    const std::uint64_t beyond =
        observed_[dev][slot].see(nvml_bytes, asked, books.other, books.word, now);
    const shm::Observed figure{beyond, books.other};
    const std::uint64_t word = region_.observed[dev][slot].load(kRelaxed);
    if (beyond == books.other && word == shm::observed_word(figure)) return;
    shm::publish_observed(region_, slot, dev, figure);
  }

  shm::Region& region_;
  unsigned devices_;
  const Nvml& nvml_;
  std::uint64_t namespace_ = 0;
  nvmlDevice_t gpus_[kMaxDevices] = {};
  std::vector<Books> before_;
  std::uint64_t states_[kMaxSlots] = {};
  std::uint64_t seen_ns_[kMaxSlots] = {};
  std::uint64_t words_[kMaxDevices][kMaxSlots] = {};
  Observation observed_[kMaxDevices][kMaxSlots];
};

pthread_mutex_t sampling = PTHREAD_MUTEX_INITIALIZER;  // held while a round runs
bool is_sampler = false;                               // under `sampling`

void become_sampler(const std::string& path) {
  // Never closed: an open file description's lock lasts as long as we do.
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = shm::kSupervisorByte;
  lock.l_len = 1;
  while (fd < 0 || ::fcntl(fd, F_OFD_SETLKW, &lock) != 0) {
    if (fd < 0 || errno != EINTR) ::pause();  // without the lock nothing is sampled by us
  }
}

}  // namespace

void sample(shm::Region& region, unsigned device_count, const Nvml& nvml, const std::string& path,
            const GuardedRange& guard) {
  become_sampler(path);
  const auto sampler = std::make_unique<Sampler>(region, device_count, nvml);
  std::uint64_t period_ns = kFastest_ns;
  // acquire pairs with the release add of a process that asks
  std::uint32_t asked = region.header.ask.load(std::memory_order_acquire);
  // What was read before a fault was seen may be zeros: it is only told to the region, which nobody reads then.
  while (!guard.faulted()) {
    ::pthread_mutex_lock(&sampling);
    is_sampler = true;
    const bool moved = sampler->round();
    ::pthread_mutex_unlock(&sampling);
    period_ns = moved ? kFastest_ns : std::min(period_ns * 2, kSlowest_ns);
    const std::uint32_t now = shm::wait_for_ask(region, asked, period_ns);
    if (now != asked) period_ns = kFastest_ns;
    asked = now;
  }
}

void stop_sampling(shm::Region& region) noexcept {
  ::pthread_mutex_lock(&sampling);  // and never unlocked: no round begins after this
  if (is_sampler) shm::publish_round(region, 0);
}

}  // namespace bulkhead::gpu
