#include "daemon/governor.h"

#include <sys/epoll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "shm/governed.h"

namespace bulkhead::daemon {
namespace {

namespace shares = policy::compute;
constexpr auto kRelaxed = std::memory_order_relaxed;  // strangers' words, each by itself

int ms_until(std::uint64_t at, std::uint64_t now) {
  return at <= now ? 0 : static_cast<int>((at - now + 999'999) / 1'000'000);
}

}  // namespace

DeviceGovernor::DeviceGovernor(TenantRegions& regions, Poller& poller)
    : regions_(regions), poller_(poller) {
  regions_.on_shares = [this] { rung_ = true; };
}

DeviceGovernor::~DeviceGovernor() {
  regions_.on_shares = nullptr;
  if (bells_.ok()) poller_.remove(bells_.get());
}

Status DeviceGovernor::open() {
  bells_.reset(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  if (!bells_.ok()) return Status{Errc::kIo, errno, "cannot watch regions"};
  return poller_.add(bells_.get(), 0, [this](std::uint32_t) {
    alignas(inotify_event) char events[4096];
    while (::read(bells_.get(), events, sizeof events) > 0) {
    }
    rung_ = true;
  });
}

// Between two rests it does not: a tenant that rings without an end costs fifty looks a second.
void DeviceGovernor::listen(bool on) {
  if (on == listening_) return;
  listening_ = on;
  (void)poller_.change(bells_.get(), on ? std::uint32_t{EPOLLIN} : 0u);
}

// An inode has one watch; the kernel drops it with the file.
void DeviceGovernor::watch(const TenantRegions::Timed& timed) {
  auto& [wd, seen] = watched_[timed.tenant];
  if (seen == 0 && timed.descriptor >= 0) {
    const std::string path = "/proc/self/fd/" + std::to_string(timed.descriptor);
    wd = ::inotify_add_watch(bells_.get(), path.c_str(), IN_ATTRIB);
  }
  seen = looks_;
}

void DeviceGovernor::forget_others() {
  std::erase_if(watched_, [this](const auto& entry) {
    if (entry.second.second == looks_) return false;
    if (entry.second.first >= 0) (void)::inotify_rm_watch(bells_.get(), entry.second.first);
    return true;
  });
}

void DeviceGovernor::hear(const TenantRegions::Timed& timed, std::uint64_t now) {
  Uuid uuid;
  std::memcpy(uuid.data(), timed.uuid, uuid.size());
  Device& device = devices_[uuid];
  if (!device.begun) {
    // After a rest the clock has gone on undivided, and what was told meanwhile is of another time.
    if (resting_ || now - last_ns_ > shm::kGovernorStale_ns) device.policy.rested(now);
    device.policy.begin(now);
    device.given.clear();
    device.floors.clear();
    device.begun = true;
  }
  const shm::Region& r = timed.words;
  const unsigned high = std::min(r.header.slots_high.load(kRelaxed), kMostSlots);
  if (timed.processes.size() < high) timed.processes.resize(high);
  for (unsigned j = 0; j < high; ++j) {
    const shm::WorkTold told = shm::work_told(r.cells[timed.device][j], now);
    if (told.at_ns == 0) continue;  // it never launched under a share
    device.policy.process(timed.processes[j], {told.work, told.with_long, told.empty_ns});
  }
  const shm::ComputeEntry& e = r.compute[timed.device];
  const shares::TenantSeen seen{timed.rules.floor_x100,        timed.rules.ceiling_x100,
                                e.raw_ns.load(kRelaxed),       e.shared_raw_ns.load(kRelaxed),
                                e.short_ns.load(kRelaxed),     e.wanted_at_ns.load(kRelaxed),
                                e.held_until_ns.load(kRelaxed)};
  if (device.policy.tenant(timed.state, seen)) {
    device.given.push_back(timed.given);
  } else if (timed.given != nullptr) {
    shm::give_rate(*timed.given, timed.rules.floor_x100);
  }
}

void DeviceGovernor::tell(Device& device, const Uuid& uuid, std::uint64_t now) {
  std::uint32_t rates[shares::kMaxSharers];
  const auto measured = slices_.find(uuid);
  const Slices slices = measured == slices_.end() ? Slices{} : measured->second;
  device.policy.end(slices.loss_x1000, rates);
  for (std::size_t i = 0; i < device.given.size(); ++i) {
    if (device.given[i] != nullptr) shm::give_rate(*device.given[i], rates[i]);
  }
  shm::NodePage* const page = regions_.page();
  if (page == nullptr) return;
  std::uint8_t key[shm::kUuidBytes];
  std::memcpy(key, uuid.data(), sizeof key);
  device.place = shm::add_governed(*page, key);
  const shares::VPoint& v = device.policy.clock();
  shm::Governed g;
  g.beat_ns = now;
  g.state = resting_ ? shm::kGoverned | shm::kResting : std::uint64_t{shm::kGoverned};
  g.at_ns = v.at_ns;
  g.v_ns = v.v_ns;
  g.shared_ns = v.shared_ns;
  g.pace = std::uint64_t{v.pace_q20} | std::uint64_t{v.shared} << 32;
  g.kappa = device.policy.kappa();
  g.contexts = device.policy.contexts();
  g.slice_ns = slices.slice_ns;
  g.loss = slices.slice_ns != 0 ? slices.loss_x1000 : 0;
  shm::write_governed(*page, device.place, g);
}

void DeviceGovernor::set_slice(const std::uint8_t (&uuid)[shm::kUuidBytes], std::uint64_t slice_ns,
                               std::uint32_t loss_x1000) {
  Uuid key;
  std::memcpy(key.data(), uuid, key.size());
  slices_.erase(key);
  if (slice_ns != 0) slices_[key] = {slice_ns, loss_x1000};
}

void DeviceGovernor::look(std::uint64_t now) {
  ++looks_;
  const bool rested = resting_;
  for (auto& [uuid, device] : devices_) device.begun = false;
  regions_.each_timed([&](const TenantRegions::Timed& timed) {
    if (rested) watch(timed);
    hear(timed, now);
  });
  if (rested) forget_others();
  bool busy = false;
  for (auto& [uuid, device] : devices_)
    busy =
        busy || (device.begun && (device.policy.contexts() > 1 || device.policy.demanding() > 1));
  if (busy) busy_ns_ = now;
  resting_ = busy_ns_ == 0 || now - busy_ns_ >= kRest_ns;
  for (auto& [uuid, device] : devices_)
    if (device.begun) tell(device, uuid, now);
  if (resting_ && !rested) listen_ns_ = now + kRest_ns;
  last_ns_ = now;
}

int DeviceGovernor::tick(const Now& now) {
  if (rung_ || now.mono_ns >= next_ns_) {
    if (rung_) listen_ns_ = now.mono_ns + kRest_ns;
    rung_ = false;
    look(now.mono_ns);
    next_ns_ = now.mono_ns + (resting_ ? kRestingLook_ns : kLook_ns);
  }
  listen(resting_ && now.mono_ns >= listen_ns_);
  const std::uint64_t next = resting_ && !listening_ ? std::min(next_ns_, listen_ns_) : next_ns_;
  return std::max(1, ms_until(next, now.mono_ns));
}

}  // namespace bulkhead::daemon
