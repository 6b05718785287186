// The tenants of one directory: create under the lock, list, sweep, remove.
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/kill_point.h"
#include "shm/quota.h"
#include "shm/tenant.h"

namespace bulkhead::shm {
namespace {

// The directory's lock: held while limits are summed, tenants made, swept or removed. A kernel
// lock, so it falls with its holder.
Result<UniqueFd> lock_directory(const Dir& dir, Patience patience) noexcept {
  UniqueFd fd{::openat(dir.fd.get(), "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600)};
  if (!fd.ok()) return Status{Errc::kIo, errno, "cannot open the directory's lock file"};
  const int how = patience == Patience::kEndless ? LOCK_EX : LOCK_EX | LOCK_NB;
  const timespec pause{0, 1'000'000};
  for (int ms = 0; ::flock(fd.get(), how) != 0;) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) return Status{Errc::kIo, errno, "cannot lock the directory"};
    if (++ms > kBrief_ms)
      return Status{Errc::kNotReady, 0, "somebody else holds the directory's lock"};
    ::nanosleep(&pause, nullptr);
  }
  return fd;
}

Result<UniqueFd> open_tenants(const Dir& dir, bool create) noexcept {
  if (create && ::mkdirat(dir.fd.get(), "tenants", dir.euid == 0 ? 0755 : 0700) != 0 &&
      errno != EEXIST) {
    return Status{Errc::kIo, errno, "cannot make the directory of tenants"};
  }
  return open_directory(dir.fd.get(), "tenants", dir.euid);
}

void unlink_home(int tenants, int home, const char* name) noexcept {
  ::unlinkat(home, "region", 0);
  ::unlinkat(home, "region.new", 0);
  ::unlinkat(tenants, name, AT_REMOVEDIR);  // fails, rightly, if something else lies in it
}
void unlink_tenant(int tenants, const char* name, uid_t euid) noexcept {
  Result<UniqueFd> home = open_directory(tenants, name, euid);
  if (home.ok()) unlink_home(tenants, home->get(), name);
}

// Whether `name` is without users, and stays so as long as `door` lives: nobody is joining, nobody
// joined since it was first looked at. One that cannot be read has no users either.
bool shut(const Dir& dir, const char* name, Snapshot& door) noexcept {
  if (!door.keep_others_out()) return false;
  BH_KILL_POINT("remove.shut");
  Result<Snapshot> again = snapshot_tenant(dir, name);
  return !again.ok() || again->live() == 0;
}

// Under the lock. An ephemeral tenant goes when its creator and all its processes are known dead.
struct Sweep {
  const Dir& dir;
  int tenants;
};
bool sweep_name(const Sweep& sweep, const char* name) noexcept {
  Result<Snapshot> shot = snapshot_tenant(sweep.dir, name);
  if (!shot.ok()) {
    if (shot.status().code() == Errc::kNotFound) unlink_tenant(sweep.tenants, name, sweep.dir.euid);
    return true;
  }
  if (shot->left_over() && shut(sweep.dir, name, *shot)) {
    unlink_tenant(sweep.tenants, name, sweep.dir.euid);
  }
  return true;
}
bool sweep_one(void* arg, const char* name) noexcept {
  return !valid_name(name) || sweep_name(*static_cast<Sweep*>(arg), name);
}

struct Sum {
  const Dir& dir;
  const DeviceSpec& device;
  Arithmetic& sums;
  const char* except;  // a tenant that is not counted, or null
};
bool add_limits(void* arg, const char* name) noexcept {
  Sum& sum = *static_cast<Sum*>(arg);
  if (!valid_name(name) || (sum.except != nullptr && std::strcmp(name, sum.except) == 0))
    return true;
  Result<Snapshot> shot = snapshot_tenant(sum.dir, name);
  if (!shot.ok()) {
    if (shot.status().code() != Errc::kNotFound) ++sum.sums.unreadable;
    return true;
  }
  for (unsigned d = 0; d < shot->device_count(); ++d) {
    if (std::memcmp(shot->region().devices[d].uuid, sum.device.uuid, kUuidBytes) != 0) continue;
    const std::uint64_t limit = limit_bytes(shot->region(), d);
    const std::uint64_t before = sum.sums.committed_bytes;
    sum.sums.committed_bytes = before + limit < before ? ~0ull : before + limit;
    sum.sums.committed_x100 += region_compute(shot->region(), d).floor_x100;  // each <= 10,000
  }
  return true;
}

Status check_sums(const Dir& dir, int tenants, const TenantSpec& spec, Arithmetic& sums,
                  const char* except = nullptr) noexcept {
  for (unsigned i = 0; i < spec.device_count; ++i) {
    const DeviceSpec& device = spec.devices[i];
    sums = Arithmetic{};
    sums.device = i;
    sums.total_bytes = device.total_bytes;
    sums.asked_bytes = device.limit_bytes;
    sums.asked_x100 = in_range(device.compute).floor_x100;
    Sum sum{dir, device, sums, except};
    if (const Status bad = for_each_entry(tenants, add_limits, &sum); !bad.ok()) return bad;
    const bool fits = sums.committed_bytes <= device.total_bytes &&
                      device.limit_bytes <= device.total_bytes - sums.committed_bytes;
    if (!fits && !spec.overcommit) {
      return Status{Errc::kTooLarge, 0, "the limits of all tenants would pass the device's memory"};
    }
    sums.of_compute =
        sums.asked_x100 != 0 && sums.committed_x100 + sums.asked_x100 > kWholeDevice_x100;
    if (sums.of_compute && !spec.overcommit) {
      return Status{Errc::kTooLarge, 0, "the shares of all tenants would pass the device's time"};
    }
  }
  return Status{};
}

Status check_spec(const TenantSpec& spec) noexcept {
  if (spec.name != nullptr && !valid_name(spec.name)) {
    return Status{Errc::kInvalid, 0, "not a tenant's name"};
  }
  if (spec.name == nullptr && !spec.ephemeral)
    return Status{Errc::kInvalid, 0, "a tenant needs a name"};
  if (spec.device_count == 0 || spec.device_count > kMaxDevices) {
    return Status{Errc::kInvalid, 0, "a tenant has 1 to 16 devices"};
  }
  for (unsigned i = 0; i < spec.device_count; ++i) {
    for (unsigned j = 0; j < i; ++j) {
      if (std::memcmp(spec.devices[i].uuid, spec.devices[j].uuid, kUuidBytes) == 0) {
        return Status{Errc::kInvalid, 0, "a device is named twice"};
      }
    }
    // the unit ends at 2^30 bytes: beyond that 28 bits could not hold the limit twice
    if ((spec.devices[i].limit_bytes >> 56) != 0 || (spec.devices[i].total_bytes >> 56) != 0) {
      return Status{Errc::kInvalid, 0, "a size is beyond any device"};
    }
  }
  return Status{};
}

void append_number(char*& to, std::uint64_t number) noexcept {
  char digits[20];
  unsigned count = 0;
  do {
    digits[count++] = static_cast<char>('0' + number % 10);
    number /= 10;
  } while (number != 0);
  *to++ = '-';
  while (count > 0) *to++ = digits[--count];
}

// run-<pid>-<start time>: at most 3 + 11 + 21 characters.
void ephemeral_name(char (&out)[kNameBytes], const Identity& me) noexcept {
  std::memset(out, 0, sizeof out);
  std::memcpy(out, "run", 3);
  char* to = out + 3;
  append_number(to, me.pid);
  append_number(to, me.start_ticks);
}

// Room for what will be touched, so that a full tmpfs refuses here and never raises SIGBUS later.
Status reserve_file(int fd, unsigned devices) noexcept {
  if (::ftruncate(fd, static_cast<off_t>(sizeof(Region))) != 0) {
    return Status{Errc::kIo, errno, "cannot size the region"};
  }
  for (unsigned part = 0; part < 4; ++part) {
    const FileRange range = reserved_range(devices, part);
    const int error =
        ::posix_fallocate(fd, static_cast<off_t>(range.offset), static_cast<off_t>(range.bytes));
    if (error == ENOSPC) return Status{Errc::kFull, error, "no room for the region"};
    if (error != 0) return Status{Errc::kIo, error, "cannot reserve the region"};
  }
  return Status{};
}

Status write_region(int home, const TenantSpec& spec, const char* name, const Identity& me,
                    uid_t euid) noexcept {
  ::unlinkat(home, "region.new", 0);  // left by a creator that died; we hold the lock
  const UniqueFd fd{
      ::openat(home, "region.new", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600)};
  if (!fd.ok()) return Status{Errc::kIo, errno, "cannot make the region"};
  BH_KILL_POINT("create.opened");
  if (const Status bad = reserve_file(fd.get(), spec.device_count); !bad.ok()) return bad;
  void* const at = ::mmap(nullptr, sizeof(Region), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) return Status{Errc::kIo, errno, "cannot map the region"};
  const Mapping map{at, sizeof(Region)};
  format_region(*map.as<Region>(), spec, name, me);
  BH_KILL_POINT("create.formatted");
  // Last: from here on its owner may shrink it under us.
  if (::fchmod(fd.get(), 0600) != 0 ||
      (euid == 0 && ::fchown(fd.get(), spec.owner_uid, static_cast<gid_t>(-1)) != 0)) {
    return Status{Errc::kIo, errno, "cannot give the region to its owner"};
  }
  if (::renameat(home, "region.new", home, "region") != 0) {
    return Status{Errc::kIo, errno, "cannot publish the region"};
  }
  BH_KILL_POINT("create.published");
  return Status{};
}

}  // namespace

bool creator_may_live(const RegionHeader& h) noexcept {
  const Identity me = read_identity();
  if (h.creator_pid_namespace == 0 || h.creator_pid_namespace != me.pid_namespace) return true;
  return presence_in_proc(h.creator_pid, h.creator_start_ticks) != Presence::kGone;
}

bool Snapshot::left_over() noexcept {
  const RegionHeader& h = region().header;
  return (h.flags & kEphemeral) != 0 && !creator_may_live(h) && live() == 0;
}

FileRange reserved_range(unsigned device_count, unsigned part) noexcept {
  switch (part) {
    case 0:
      return {0, offsetof(Region, cells)};
    case 1:
      return {offsetof(Region, cells), std::uint64_t{device_count} * kMaxSlots * sizeof(MemCell)};
    case 2:
      return {offsetof(Region, observed),
              std::uint64_t{device_count} * kMaxSlots * sizeof(AtomicU64)};
    default:
      return {offsetof(Region, shares), sizeof(Region::shares) + sizeof(Region::compute)};
  }
}

Status create_tenant(const Dir& dir, const TenantSpec& spec, Arithmetic& sums,
                     char (*name_out)[kNameBytes]) noexcept {
  if (const Status bad = check_spec(spec); !bad.ok()) return bad;
  if (dir.euid != 0 && spec.owner_uid != dir.euid) {
    return Status{Errc::kInvalid, 0, "only root makes tenants for others"};
  }
  const Identity me = read_identity();
  char name[kNameBytes] = {};
  if (spec.name != nullptr) {
    std::memcpy(name, spec.name, std::strlen(spec.name) + 1);
  } else {
    ephemeral_name(name, me);
  }
  Result<UniqueFd> lock =
      lock_directory(dir, spec.admitted ? Patience::kBrief : Patience::kEndless);
  if (!lock.ok()) return lock.status();
  Result<UniqueFd> tenants = open_tenants(dir, true);
  if (!tenants.ok()) return tenants.status();
  struct stat st {};
  Sweep sweep{dir, tenants->get()};
  if (!spec.admitted) {
    if (const Status bad = for_each_entry(tenants->get(), sweep_one, &sweep); !bad.ok()) return bad;
  }
  BH_KILL_POINT("create.locked");
  if (::mkdirat(tenants->get(), name, dir.euid == 0 ? 0755 : 0700) != 0 && errno != EEXIST) {
    return Status{Errc::kIo, errno, "cannot make the tenant's directory"};
  }
  Result<UniqueFd> home = open_directory(tenants->get(), name, dir.euid);
  if (!home.ok()) {
    ::unlinkat(tenants->get(), name, AT_REMOVEDIR);  // if it is empty: it may be ours
    return home.status();
  }
  if (stat_at(home->get(), "region", st))
    return Status{Errc::kExists, 0, "the tenant exists already"};
  const Identity& creator = spec.creator != nullptr ? *spec.creator : me;
  Status made{};
  if (!spec.admitted) made = check_sums(dir, tenants->get(), spec, sums);
  if (made.ok()) made = write_region(home->get(), spec, name, creator, dir.euid);
  if (!made.ok()) {
    unlink_home(tenants->get(), home->get(), name);  // needs no descriptor: they may be out
    return made;
  }
  if (name_out != nullptr) std::memcpy(*name_out, name, sizeof name);
  return Status{};
}

Status write_limits(Tenant& tenant, const LimitChange& change) noexcept {
  for (unsigned i = 0; i < change.count; ++i) {
    const DeviceSpec& to = change.devices[i];
    if (change.of_compute) {
      set_compute(tenant.region(), change.at[i], to.compute);
    } else {
      set_limit(tenant.region(), change.at[i], to.limit_bytes);
    }
  }
  return {};
}

namespace {

// What both have in common: `rises` says which of the wanted are summed with all others.
template <class Rises>
Status set_some(const Dir& dir, const char* name, LimitChange change, bool overcommit,
                Arithmetic& sums, Rises rises, WriteLimits write) noexcept {
  const DeviceSpec* const devices = change.devices;
  const unsigned count = change.count = std::min(change.count, kMaxDevices);
  Result<UniqueFd> lock = lock_directory(dir, Patience::kEndless);
  if (!lock.ok()) return lock.status();
  Result<UniqueFd> tenants = open_tenants(dir, false);
  if (!tenants.ok()) return tenants.status();
  Result<Snapshot> shot = snapshot_tenant(dir, name);
  if (!shot.ok()) return shot.status();
  TenantSpec raised;  // lowering is never refused
  raised.overcommit = overcommit;
  unsigned at[kMaxDevices] = {};
  for (unsigned i = 0; i < count && i < kMaxDevices; ++i) {
    while (at[i] < shot->device_count() &&
           std::memcmp(shot->region().devices[at[i]].uuid, devices[i].uuid, kUuidBytes) != 0) {
      ++at[i];
    }
    if (at[i] == shot->device_count()) return Status{Errc::kNotFound, 0, "no grant on this device"};
    DeviceSpec wanted = devices[i];
    if (rises(shot->region(), at[i], wanted)) raised.devices[raised.device_count++] = wanted;
  }
  if (const Status bad = check_sums(dir, tenants->get(), raised, sums, name); !bad.ok()) {
    for (unsigned i = 0; i < count && bad.code() == Errc::kTooLarge; ++i) {
      if (std::memcmp(devices[i].uuid, raised.devices[sums.device].uuid, kUuidBytes) == 0)
        sums.device = i;
    }
    return bad;
  }
  Result<Tenant> tenant = attach_tenant(dir, name);
  if (!tenant.ok()) return tenant.status();
  change.at = at;
  return write(*tenant, change);
}

}  // namespace

Status set_limits(const Dir& dir, const char* name, const DeviceSpec* devices, unsigned count,
                  bool overcommit, Arithmetic& sums, WriteLimits write) noexcept {
  const auto rises = [](const Region& r, unsigned d, DeviceSpec& wanted) noexcept {
    wanted.compute = ComputeRules{};  // asks for no time
    return wanted.limit_bytes > limit_bytes(r, d);
  };
  return set_some(dir, name, LimitChange{devices, nullptr, count}, overcommit, sums, rises, write);
}

Status set_shares(const Dir& dir, const char* name, const DeviceSpec* devices, unsigned count,
                  bool overcommit, Arithmetic& sums, WriteLimits write) noexcept {
  const auto rises = [](const Region& r, unsigned d, DeviceSpec& wanted) noexcept {
    wanted.limit_bytes = 0;  // asks for no memory
    wanted.total_bytes = ~0ull;
    return wanted.compute.floor_x100 > region_compute(r, d).floor_x100;
  };
  return set_some(dir, name, LimitChange{devices, nullptr, count, true}, overcommit, sums, rises,
                  write);
}

Status remove_tenant(const Dir& dir, const char* name, bool force, Patience patience) noexcept {
  if (!valid_name(name)) return Status{Errc::kInvalid, 0, "not a tenant's name"};
  Result<UniqueFd> lock = lock_directory(dir, patience);
  if (!lock.ok()) return lock.status();
  Result<UniqueFd> tenants = open_tenants(dir, false);
  if (!tenants.ok()) return tenants.status();
  struct stat st {};
  if (!stat_at(tenants->get(), name, st)) return Status{Errc::kNotFound, 0, "no such tenant"};
  if (!force) {
    Result<Snapshot> shot = snapshot_tenant(dir, name);
    if (shot.ok() && (shot->live() > 0 || !shut(dir, name, *shot))) {
      return Status{Errc::kNotReady, 0, "processes of the tenant are running"};
    }
    unlink_tenant(tenants->get(), name, dir.euid);  // with the door still shut
  } else {
    unlink_tenant(tenants->get(), name, dir.euid);
  }
  return stat_at(tenants->get(), name, st)
             ? Status{Errc::kIo, 0, "other files lie in the tenant's directory"}
             : Status{};
}

Status list_tenants(const Dir& dir, bool (*fn)(void*, const char*), void* arg) noexcept {
  Result<UniqueFd> tenants = open_tenants(dir, false);
  if (!tenants.ok()) {
    return tenants.status().code() == Errc::kNotFound ? Status{} : tenants.status();  // none yet
  }
  struct Call {
    bool (*fn)(void*, const char*);
    void* arg;
  } call{fn, arg};
  return for_each_entry(
      tenants->get(),
      [](void* at, const char* name) noexcept {
        const Call& to = *static_cast<Call*>(at);
        return !valid_name(name) || to.fn(to.arg, name);
      },
      &call);
}

Status sweep_tenants(const Dir& dir) noexcept {
  Result<UniqueFd> lock = lock_directory(dir, Patience::kEndless);
  if (!lock.ok()) return lock.status();
  Result<UniqueFd> tenants = open_tenants(dir, false);
  if (!tenants.ok()) {
    return tenants.status().code() == Errc::kNotFound ? Status{} : tenants.status();
  }
  Sweep sweep{dir, tenants->get()};
  return for_each_entry(tenants->get(), sweep_one, &sweep);
}

}  // namespace bulkhead::shm
