// One process and its region: format, check, attach, join, snapshot. The directory's
// business (create, list, remove, sums) is in tenants.cc.
#include "shm/tenant.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "base/kill_point.h"
#include "shm/quota.h"
#include "shm/shares.h"

namespace bulkhead::shm {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

std::uint64_t boottime_s(void*) noexcept { return boottime_ns() / 1'000'000'000u; }
Presence presence(void*, std::uint32_t pid, std::uint64_t start) noexcept {
  return presence_in_proc(pid, start);
}

}  // namespace

Result<UniqueFd> open_region(const Dir& dir, const char* name, int flags) noexcept {
  if (!valid_name(name)) return Status{Errc::kInvalid, 0, "not a tenant's name"};
  Result<UniqueFd> tenants = open_directory(dir.fd.get(), "tenants", dir.euid);
  if (!tenants.ok()) return tenants.status();
  Result<UniqueFd> home = open_directory(tenants->get(), name, dir.euid);
  if (!home.ok()) return home.status();
  // root attaches to any tenant's region (the daemon); others only to their own
  const uid_t owner = dir.euid == 0 ? kAnyOwner : dir.euid;
  return open_file(home->get(), "region", flags, owner, sizeof(Region));
}

namespace {

constexpr int kNoDescriptor = -1;

// The region's file stays where it is as long as this lives: who removes a tenant for want of users
// needs the same lock for itself (tenants.cc), and looks for users after it has it.
class InPlace {
 public:
  explicit InPlace(int fd) noexcept : fd_(fd) {
    if (fd < 0) return;
    const timespec pause{0, 1'000'000};
    for (int ms = 0; !held_ && ms < kJoinPatience_ms; ++ms) {
      held_ = ::flock(fd, LOCK_SH | LOCK_NB) == 0;
      if (!held_) ::nanosleep(&pause, nullptr);
    }
    BH_KILL_POINT("join.in_place");
    struct stat st {};
    linked_ = stat_fd(fd, st) && st.st_nlink != 0;
  }
  InPlace(const InPlace&) = delete;
  InPlace& operator=(const InPlace&) = delete;
  // Unlocked in so many words: a child forked meanwhile shares the open file.
  ~InPlace() {
    if (held_) ::flock(fd_, LOCK_UN);
  }
  [[nodiscard]] Status status() const noexcept {
    if (!linked_) return Status{Errc::kNotFound, 0, "the tenant was removed meanwhile"};
    if (!held_)
      return Status{Errc::kNotReady, 0, "the tenant is being removed, or its file is kept locked"};
    return Status{};
  }

 private:
  int fd_;
  bool held_ = false;
  bool linked_ = false;
};

}  // namespace

void format_region(Region& r, const TenantSpec& spec, const char* name,
                   const Identity& creator) noexcept {
  RegionHeader& h = r.header;
  h.major = kRegionMajor;
  h.minor = kRegionMinor;
  h.header_bytes = sizeof(RegionHeader);
  h.region_bytes = sizeof(Region);
  h.device_count = spec.device_count;
  h.slot_count = kMaxSlots;
  h.owner_uid = spec.owner_uid;
  h.flags = (spec.ephemeral ? kEphemeral : 0u) | (spec.overcommit ? kOvercommitted : 0u);
  h.creator_pid = creator.pid;
  h.creator_start_ticks = creator.start_ticks;
  h.creator_pid_namespace = creator.pid_namespace;
  std::memcpy(h.name, name, std::strlen(name) + 1);
  h.on_fault.store(spec.on_fault, kRelaxed);  // all of this is ordered by the magic
  for (unsigned i = 0; i < spec.device_count; ++i) {
    const DeviceSpec& from = spec.devices[i];
    DeviceEntry& to = r.devices[i];
    std::memcpy(to.uuid, from.uuid, kUuidBytes);
    to.total_bytes = from.total_bytes;
    to.unit_shift = unit_shift_for(std::max(from.limit_bytes, from.total_bytes));
    // relaxed: published by the magic below
    to.slack_cap.store(kSlackMax, kRelaxed);
    to.limit_bytes.store((from.limit_bytes >> to.unit_shift) << to.unit_shift, kRelaxed);
    if (from.compute.limited()) set_compute(r, i, from.compute);
  }
  h.magic.store(kRegionMagic, std::memory_order_release);  // pairs with check_region()
}

namespace {

Status check_head(const RegionHeader& h, const DeviceEntry (&devices)[kMaxDevices]) noexcept {
  const std::uint64_t magic =
      h.magic.load(std::memory_order_acquire);  // pairs with format_region()
  if (magic == 0) return Status{Errc::kNotReady, 0, "region being formatted"};
  if (magic != kRegionMagic) return Status{Errc::kBadMagic, 0, "not a region"};
  if (h.major != kRegionMajor)
    return Status{Errc::kBadVersion, 0, "region of another major version"};
  if (h.region_bytes != sizeof(Region) || h.header_bytes != sizeof(RegionHeader) ||
      h.slot_count != kMaxSlots) {
    return Status{Errc::kCorrupt, 0, "region header has impossible sizes"};
  }
  if (h.device_count == 0 || h.device_count > kMaxDevices) {
    return Status{Errc::kCorrupt, 0, "region header has an impossible device count"};
  }
  char name[kNameBytes];
  std::memcpy(name, h.name, sizeof name);
  if (name[kNameBytes - 1] != 0 || !valid_name(name)) {
    return Status{Errc::kCorrupt, 0, "region header has an impossible name"};
  }
  for (unsigned i = 0; i < h.device_count && i < kMaxDevices; ++i) {
    const std::uint32_t shift = devices[i].unit_shift;
    if (shift < 9 || shift > 30)
      return Status{Errc::kCorrupt, 0, "device entry has an impossible unit"};
  }
  return Status{};
}

// What lies before a region's slots.
struct RegionHead {
  RegionHeader header;
  DeviceEntry devices[kMaxDevices];
};
static_assert(offsetof(RegionHead, devices) == offsetof(Region, devices) &&
              sizeof(RegionHead) == offsetof(Region, slots));

}  // namespace

Status check_region(const Region& r) noexcept { return check_head(r.header, r.devices); }

// Checked in a copy, read by pread: the mapping is not touched before its owner can guard it against a
// file that shrinks (base/bus_guard.h).
Result<Tenant> attach_tenant(const Dir& dir, const char* name) noexcept {
  Result<UniqueFd> fd = open_region(dir, name, O_RDWR);
  if (!fd.ok()) return fd.status();
  RegionHead r;
  if (!read_exactly(fd->get(), &r, sizeof r, 0)) {
    return Status{Errc::kCorrupt, 0, "the region was cut short while it was read"};
  }
  if (const Status bad = check_head(r.header, r.devices); !bad.ok()) return bad;
  if (std::strncmp(r.header.name, name, kNameBytes) != 0) {
    return Status{Errc::kCorrupt, 0, "region carries another tenant's name"};
  }
  void* const at =
      ::mmap(nullptr, sizeof(Region), PROT_READ | PROT_WRITE, MAP_SHARED, fd->get(), 0);
  if (at == MAP_FAILED) return Status{Errc::kIo, errno, "cannot map the region"};
  Tenant tenant;
  tenant.map_ = Mapping{at, sizeof(Region)};
  struct stat st {};
  if (!stat_fd(fd->get(), st)) return Status{Errc::kIo, errno, "cannot look at the region"};
  tenant.device_ = st.st_dev;
  tenant.inode_ = st.st_ino;
  tenant.device_count_ = r.header.device_count;  // checked, of the copy
  UniqueFd kept = out_of_the_way(std::move(*fd));
  if (!kept.ok()) return Status{Errc::kIo, EMFILE, "no descriptor left for the region"};
  tenant.fd_.store(kept.release(), kRelaxed);  // the number is all that is shared
  std::memcpy(tenant.name_, name, std::strlen(name) + 1);
  std::memcpy(tenant.dir_, dir.path, sizeof tenant.dir_);
  tenant.pid_namespace_ = read_identity().pid_namespace;
  return tenant;
}

Tenant::Tenant(Tenant&& other) noexcept { *this = std::move(other); }
Tenant& Tenant::operator=(Tenant&& other) noexcept {
  if (this == &other) return *this;
  close_own();
  // relaxed: moved by one thread, before others see the object
  fd_.store(other.fd_.exchange(-1, kRelaxed), kRelaxed);
  map_ = std::move(other.map_);
  device_ = other.device_;
  inode_ = other.inode_;
  pid_namespace_ = other.pid_namespace_;
  device_count_ = other.device_count_;
  std::memcpy(name_, other.name_, sizeof name_);
  std::memcpy(dir_, other.dir_, sizeof dir_);
  return *this;
}
Tenant::~Tenant() { close_own(); }

// The application may have closed ours and opened something else under its number.
bool Tenant::is_own(int fd) const noexcept {
  struct stat st {};
  return fd >= 0 && stat_fd(fd, st) && st.st_dev == device_ && st.st_ino == inode_;
}
void Tenant::close_own() noexcept {
  // relaxed: the number is all that is shared
  if (const int fd = fd_.exchange(-1, kRelaxed); is_own(fd)) ::close(fd);
}

int Tenant::descriptor() noexcept {
  int fd = fd_.load(kRelaxed);  // the number is all that is shared; checked next
  if (is_own(fd)) return fd;
  char path[kPathBytes], home[kPathBytes];
  if (!join_path(home, dir_, "/tenants/", name_) || !join_path(path, home, "/region")) return -1;
  // closing another file drops no lock of ours; of this one there is none left to drop
  UniqueFd again = out_of_the_way(UniqueFd{::open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW)});
  if (!again.ok() || !is_own(again.get())) return -1;
  // The loser of a race keeps its descriptor open for good: closing it would drop the process's
  // locks.
  const int kept = again.release();
  return fd_.compare_exchange_strong(fd, kept, kRelaxed, kRelaxed) ? kept : fd;
}

World Tenant::world() noexcept {
  World w;
  w.self = this;
  w.presence = presence;
  w.lock_state = [](void* self, unsigned byte) noexcept {
    const int fd = static_cast<Tenant*>(self)->descriptor();
    return fd < 0 ? Lock::kUnknown : lock_state_of(fd, byte);
  };
  w.take_lock = [](void* self, unsigned byte) noexcept {
    const int fd = static_cast<Tenant*>(self)->descriptor();
    return fd >= 0 && set_lock(fd, byte, true);
  };
  w.drop_lock = [](void* self, unsigned byte) noexcept {
    const int fd = static_cast<Tenant*>(self)->descriptor();
    if (fd >= 0) static_cast<void>(set_lock(fd, byte, false));
  };
  w.boottime_s = boottime_s;
  w.mark_exists = [](void*, std::uint64_t start, std::uint64_t length) noexcept {
    return mark_exists(ShareKey{start, length});
  };
  w.pid_namespace = pid_namespace_;
  return w;
}

Status join(Tenant& tenant, Member& member, Joining how) noexcept {
  const InPlace place{how == Joining::kFirst ? tenant.descriptor() : kNoDescriptor};
  if (how == Joining::kFirst && !place.status().ok()) return place.status();
  member.region = &tenant.region();
  member.world = tenant.world();
  Result<Seat> seat = claim_slot(*member.region, member.world, read_identity());
  BH_KILL_POINT("join.claimed");
  if (!seat.ok()) return seat.status();
  member.seat = *seat;
  reap_dead(*member.region, member.world, member.seat);
  return Status{};
}

World Snapshot::world() noexcept {
  World w;
  w.self = this;
  w.presence = presence;
  w.lock_state = [](void* self, unsigned byte) noexcept {
    return lock_state_of(static_cast<Snapshot*>(self)->fd_.get(), byte);
  };
  w.take_lock = [](void*, unsigned) noexcept { return false; };  // a reader changes nothing
  w.drop_lock = [](void*, unsigned) noexcept {};
  w.boottime_s = boottime_s;
  w.pid_namespace = read_identity().pid_namespace;
  return w;
}

bool Snapshot::keep_others_out() noexcept { return ::flock(fd_.get(), LOCK_EX | LOCK_NB) == 0; }

Result<Snapshot> snapshot_tenant(const Dir& dir, const char* name) noexcept {
  Result<UniqueFd> fd = open_region(dir, name, O_RDONLY);
  if (!fd.ok()) return fd.status();
  void* const at =
      ::mmap(nullptr, sizeof(Region), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return Status{Errc::kIo, errno, "no memory for a copy of the region"};
  Snapshot shot;
  shot.copy_ = Mapping{at, sizeof(Region)};
  shot.fd_ = std::move(*fd);
  auto* const bytes = static_cast<std::uint8_t*>(at);
  const auto copy = [&](std::uint64_t offset, std::size_t count) noexcept {
    return read_exactly(shot.fd_.get(), bytes + offset, count, offset);
  };
  const Status cut{Errc::kCorrupt, 0, "the region was cut short while it was read"};
  if (!copy(0, offsetof(Region, slots))) return cut;
  if (const Status bad = check_region(shot.region()); !bad.ok()) return bad;
  if (std::strncmp(shot.region().header.name, name, kNameBytes) != 0) {
    return Status{Errc::kCorrupt, 0, "region carries another tenant's name"};
  }
  shot.device_count_ = shot.region().header.device_count;  // our own copy: checked, cannot change
  if (!copy(offsetof(Region, compute), shot.device_count_ * sizeof(ComputeEntry))) return cut;
  const unsigned high = std::min(shot.region().header.slots_high.load(kRelaxed), kMaxSlots);
  if (!copy(offsetof(Region, slots), high * sizeof(ProcSlot))) return cut;
  for (unsigned d = 0; d < shot.device_count_; ++d) {
    const std::uint64_t row =
        offsetof(Region, cells) + std::uint64_t{d} * kMaxSlots * sizeof(MemCell);
    if (!copy(row, high * sizeof(MemCell))) return cut;
  }
  return shot;
}

}  // namespace bulkhead::shm
