#include "daemon/held_region.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "shm/quota.h"
#include "shm/supervise.h"

namespace bulkhead::daemon {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;  // copies of our own, or advice
using shm::Region;

std::uint32_t high_of(const Region& r) {
  return std::min(r.header.slots_high.load(kRelaxed), shm::kMaxSlots);
}

}  // namespace

Scratch::Scratch() {
  void* const at =
      ::mmap(nullptr, sizeof(Region), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at != MAP_FAILED) map_ = Mapping{at, sizeof(Region)};
}

Result<HeldRegion> HeldRegion::open(const shm::Dir& dir, const std::string& name,
                                    const Scratch& scratch) {
  Result<shm::Tenant> tenant = shm::attach_tenant(dir, name.c_str());
  if (!tenant.ok()) return tenant.status();
  HeldRegion out;
  out.tenant_ = std::move(*tenant);
  struct stat st {};
  const int fd = out.tenant_.descriptor();
  if (fd < 0 || !shm::stat_fd(fd, st)) return Status{Errc::kIo, errno, "cannot look at the region"};
  out.uid_ = st.st_uid;
  out.inode_ = st.st_ino;
  const Region& r = scratch.get();
  if (!shm::read_exactly(fd, &scratch.get(), offsetof(Region, slots), 0)) {
    return Status{Errc::kCorrupt, 0, "the region was cut short"};
  }
  if (const Status bad = shm::check_region(r); !bad.ok()) return bad;
  out.flags_ = r.header.flags;
  for (unsigned d = 0; d < r.header.device_count; ++d) {
    Device& to = out.devices_.emplace_back();
    std::memcpy(to.uuid, r.devices[d].uuid, sizeof to.uuid);
    to.total_bytes = r.devices[d].total_bytes;
    to.unit_shift = r.devices[d].unit_shift;
  }
  Result<GuardedRange> guarded = guard(&out.tenant_.region(), sizeof(Region));
  if (!guarded.ok()) return guarded.status();
  out.guard_ = std::move(*guarded);
  return out;
}

Status HeldRegion::look(const Scratch& scratch) {
  constexpr Status kShort{Errc::kCorrupt, 0, "the region was cut short"};
  constexpr Status kChanged{Errc::kCorrupt, 0, "constant fields of the region were changed"};
  if (broken_) return kShort;
  Region& r = scratch.get();
  if (std::exchange(touched_, false)) {
    // only our page table entries go: the kernel maps what lies around a page we touch, for each of 1,024 tenants
    ::madvise(&tenant_.region(), sizeof(Region), MADV_DONTNEED);
  }
  const int fd = tenant_.descriptor();
  constexpr std::size_t kFew = 16;  // slots: most tenants have fewer processes, and one read does
  const std::size_t first = offsetof(Region, slots) + kFew * sizeof(shm::ProcSlot);
  broken_ = true;  // unless all of it is as it must be
  if (fd < 0 || !shm::read_exactly(fd, &r, first, 0)) return kShort;
  if (const Status bad = shm::check_region(r); !bad.ok()) return bad;
  if (std::strncmp(r.header.name, tenant_.name(), shm::kNameBytes) != 0 ||
      r.header.device_count != devices_.size() || r.header.flags != flags_) {
    return kChanged;
  }
  for (unsigned d = 0; d < devices_.size(); ++d) {
    if (std::memcmp(devices_[d].uuid, r.devices[d].uuid, shm::kUuidBytes) != 0 ||
        devices_[d].total_bytes != r.devices[d].total_bytes ||
        devices_[d].unit_shift != r.devices[d].unit_shift) {
      return kChanged;
    }
  }
  if (!shm::read_exactly(fd, r.compute, devices_.size() * sizeof(shm::ComputeEntry),
                         offsetof(Region, compute))) {
    return kShort;
  }
  const std::uint32_t high = high_of(r);
  if (high > kFew &&
      !shm::read_exactly(fd, &r.slots[kFew], (high - kFew) * sizeof(shm::ProcSlot), first)) {
    return kShort;
  }
  for (unsigned d = 0; d < devices_.size() && high > 0; ++d) {
    const auto at =
        static_cast<std::size_t>(reinterpret_cast<char*>(r.cells[d]) - reinterpret_cast<char*>(&r));
    if (!shm::read_exactly(fd, r.cells[d], high * sizeof(shm::MemCell), at)) return kShort;
  }
  struct stat st {};
  const auto size = shm::stat_fd(fd, st) ? static_cast<std::uint64_t>(st.st_size) : sizeof(Region);
  excess_bytes_ = size > sizeof(Region) ? size - sizeof(Region) : 0;
  broken_ = false;
  return Status{};
}

bool HeldRegion::held() {
  touched_ = true;
  if (guard_.faulted()) broken_ = true;
  return !broken_;
}

bool HeldRegion::adopt() {
  if (broken_) return false;
  shm::raise_adopted(tenant_.region());
  return held();
}

bool HeldRegion::set_limit(unsigned device, std::uint64_t bytes) {
  if (broken_) return false;
  shm::set_limit(tenant_.region(), device, bytes);
  return held();
}

bool HeldRegion::set_compute(unsigned device, const shm::ComputeRules& rules) {
  if (broken_) return false;
  shm::set_compute(tenant_.region(), device, rules);
  return held();
}

bool HeldRegion::set_copy_rate(unsigned device, std::uint32_t mb_s) {
  if (broken_) return false;
  shm::set_copy_rate(tenant_.region(), device, mb_s);
  return held();
}

bool HeldRegion::set_on_fault(wire::OnFault value) {
  if (broken_) return false;
  shm::set_on_fault(tenant_.region(), static_cast<shm::OnFault>(value));
  return held();
}

HeldRegion::Owner HeldRegion::owner(unsigned slot) {
  Owner out;
  if (broken_) return out;
  const shm::ProcSlot& at = tenant_.region().slots[slot];
  // acquire pairs with the CAS to live: who sees it sees the identity
  const std::uint64_t s = at.state.load(std::memory_order_acquire);
  out.pid = at.pid.load(kRelaxed);  // published by the state, and checked by who opens its pidfd
  out.start_ticks = at.start_ticks.load(kRelaxed);
  out.pid_namespace = at.pid_namespace.load(kRelaxed);
  out.gen = static_cast<std::uint32_t>(shm::gen_of(s));
  out.live = held() && shm::state_of(s) == shm::kLive;
  return out;
}

std::uint32_t HeldRegion::lock_holder(unsigned slot) {
  const int fd = broken_ ? -1 : tenant_.descriptor();
  return fd < 0 ? 0 : shm::lock_holder_of(fd, slot);
}

std::uint64_t HeldRegion::held_by(unsigned slot) {
  std::uint64_t bytes = 0;
  for (unsigned d = 0; d < devices_.size() && !broken_; ++d) {
    bytes += shm::slot_held_bytes(tenant_.region(), slot, d);
  }
  return held() ? bytes : 0;
}

HeldRegion::Books HeldRegion::books_in(const Region& r, unsigned slot, unsigned device) {
  const shm::MemCell& cell = r.cells[device][slot];
  const shm::ProcSlot& at = r.slots[slot];
  Books out;
  out.state = at.state.load(kRelaxed);
  out.word = cell.w.load(kRelaxed);
  out.other = cell.other_bytes.load(kRelaxed);
  out.unseen = cell.unseen_bytes.load(kRelaxed);
  out.held = shm::slot_held_bytes(r, slot, device);
  for (const shm::AtomicU64* n : {&at.allocs, &at.frees, &at.first_allocs, &at.first_frees}) {
    out.moves += n->load(kRelaxed);
  }
  return out;
}

HeldRegion::Books HeldRegion::books(unsigned slot, unsigned device) {
  if (broken_) return {};
  const Books out = books_in(tenant_.region(), slot, device);
  return held() ? out : Books{};
}

bool HeldRegion::take_place() {
  const int fd = broken_ ? -1 : tenant_.descriptor();
  if (fd < 0) return false;
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = shm::kSupervisorByte;
  lock.l_len = 1;
  return ::fcntl(fd, F_OFD_SETLK, &lock) == 0;
}

void HeldRegion::leave_place() {
  struct flock lock {};
  lock.l_type = F_UNLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = shm::kSupervisorByte;
  lock.l_len = 1;
  ::fcntl(tenant_.descriptor(), F_OFD_SETLK, &lock);
}

std::uint64_t HeldRegion::sampler_beat_s() {
  if (broken_) return 0;
  const std::uint64_t beat = tenant_.region().header.sampler_beat_s.load(kRelaxed);
  return held() ? beat : 0;
}

bool HeldRegion::observe(unsigned slot, unsigned device, const shm::Observed& figure) {
  if (broken_) return false;
  shm::publish_observed(tenant_.region(), slot, device, figure);
  return held();
}

bool HeldRegion::end_round() {
  if (broken_) return false;
  shm::publish_round(tenant_.region(), 0);
  return held();
}

shm::Reaped HeldRegion::reap(unsigned slot, std::uint32_t gen) {
  if (broken_) return shm::Reaped::kGone;
  const shm::Reaped reaped = shm::reap_slot(tenant_.region(), tenant_.world(), slot, gen);
  return held() ? reaped : shm::Reaped::kGone;
}

unsigned HeldRegion::reap_dead() {
  if (broken_) return 0;
  const unsigned reaped = shm::reap_dead(tenant_.region(), tenant_.world(), shm::Seat{});
  return held() ? reaped : 0;
}

int HeldRegion::find(const std::uint8_t* uuid) const {
  for (std::size_t d = 0; d < devices_.size(); ++d) {
    if (std::memcmp(devices_[d].uuid, uuid, shm::kUuidBytes) == 0) return static_cast<int>(d);
  }
  return -1;
}

}  // namespace bulkhead::daemon
