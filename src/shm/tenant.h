// Tenants of a directory: create, attach, list, remove, and a picture for readers that trust
// nothing.
//
// Creating sums the limits of all regions in the directory, per device UUID, under one flock, and
// refuses what would pass a device's total. Everything that the hook uses (attach, join, create)
// takes no heap, no exception and no C++ runtime.
#pragma once
#include <atomic>
#include <cstdint>

#include "base/fd.h"
#include "base/mapping.h"
#include "base/status.h"
#include "shm/compute.h"
#include "shm/dir.h"
#include "shm/region.h"
#include "shm/slots.h"
#include "shm/world.h"

namespace bulkhead::shm {

// A region mapped by one of its own processes. Keeps one descriptor of the file open for as long as
// it lives: the slot's record lock hangs on it, and **closing any other descriptor of the same file
// in this process drops that lock** (close(2), POSIX locks). If the application closes ours
// (closefrom), the next use opens the file anew by path, after checking that it is still the same
// file.
class Tenant {
 public:
  Tenant() noexcept = default;
  Tenant(Tenant&& other) noexcept;
  Tenant& operator=(Tenant&& other) noexcept;
  Tenant(const Tenant&) = delete;
  Tenant& operator=(const Tenant&) = delete;
  ~Tenant();
  [[nodiscard]] bool ok() const noexcept { return map_.ok(); }
  [[nodiscard]] Region& region() const noexcept { return *map_.as<Region>(); }
  [[nodiscard]] unsigned device_count() const noexcept {
    return device_count_;
  }  // checked at attach
  [[nodiscard]] const char* name() const noexcept { return name_; }
  [[nodiscard]] const char* dir_path() const noexcept { return dir_; }
  // The outside as this process sees it. Refers to this object: ask again after moving it.
  [[nodiscard]] World world() noexcept;
  // The descriptor, checked and opened anew if it was closed; -1 if that fails. Any thread.
  [[nodiscard]] int descriptor() noexcept;

 private:
  [[nodiscard]] bool is_own(int fd) const noexcept;
  void close_own() noexcept;
  friend Result<Tenant> attach_tenant(const Dir& dir, const char* name) noexcept;
  Mapping map_;
  std::atomic<int> fd_{-1};  // relaxed: the number itself is all that is shared
  dev_t device_ = 0;
  ino_t inode_ = 0;
  std::uint64_t pid_namespace_ = 0;
  unsigned device_count_ = 0;
  char name_[kNameBytes] = {};
  char dir_[kPathBytes] = {};
};

struct DeviceSpec {
  std::uint8_t uuid[kUuidBytes] = {};
  std::uint64_t limit_bytes = 0;  // rounded down to the region's unit
  std::uint64_t total_bytes = 0;  // cuDeviceTotalMem of the real device
  ComputeRules compute{};         // no limit unless somebody sets one
};
struct TenantSpec {
  const char* name = nullptr;  // null and ephemeral: run-<pid>-<start time> of this process
  uid_t owner_uid = 0;
  bool ephemeral = false;
  bool overcommit = false;
  OnFault on_fault = kOnFaultDeny;
  // The daemon: the node's sum was checked by the caller, left-overs are its own business, and the directory's lock
  // is waited for kBrief_ms at most.
  bool admitted = false;
  const Identity* creator = nullptr;  // whose end an ephemeral tenant waits for; null: this process
  unsigned device_count = 0;
  DeviceSpec devices[kMaxDevices];
};
// What the sum under the lock was, for the message: the device that refused, or the last one looked
// at.
struct Arithmetic {
  unsigned device = 0;  // index in the spec
  std::uint64_t total_bytes = 0;
  std::uint64_t committed_bytes = 0;  // limits of the other regions on that device
  std::uint64_t asked_bytes = 0;
  unsigned unreadable = 0;  // regions that could not be read, hence not counted
  bool of_compute = false;  // it is the shares of its time that did not fit, not its memory
  std::uint32_t committed_x100 = 0;  // floors of the other regions, hundredths of a percent
  std::uint32_t asked_x100 = 0;
};

// Makes the tenant and its region; attach_tenant() then opens it. kTooLarge: see `sums`; kExists;
// kInvalid: name or spec; kFull: no room for the file; kIo, kUntrusted. `name_out` (may be null)
// receives the name.
[[nodiscard]] Status create_tenant(const Dir& dir, const TenantSpec& spec, Arithmetic& sums,
                                   char (*name_out)[kNameBytes] = nullptr) noexcept;
// kNotFound, kUntrusted, kBadSize, kBadMagic, kBadVersion, kNotReady, kCorrupt, kInvalid (name),
// kIo. Reads the file, not the mapping: the first access to the region is the caller's, who may guard
// it before (base/bus_guard.h).
[[nodiscard]] Result<Tenant> attach_tenant(const Dir& dir, const char* name) noexcept;
// Claims a slot for this process, reaps the dead, and fills `member` (for charge_or_reap). `tenant`
// must stay where it is from now on. Between attach and join the tenant may have been removed, its
// last process gone; kFirst answers kNotFound then (attach or create anew), and kNotReady if somebody
// who removes tenants stands still for kJoinPatience_ms. kAgain: this process lost its slot; it goes
// on in the region it has, whatever became of the name.
//
// There is no call for leaving. A process ends without notice more often than with, and while it
// exits, other threads and the driver's own exit handlers still charge and give back; so its slot is
// left to the reapers, and an ephemeral tenant without processes to the next sweep.
enum class Joining : std::uint8_t { kFirst, kAgain };
inline constexpr int kJoinPatience_ms = 1000;
[[nodiscard]] Status join(Tenant& tenant, Member& member, Joining how = Joining::kFirst) noexcept;
// What set_limits() and set_shares() write: each limit, and the index in the region of its device.
struct LimitChange {
  const DeviceSpec* devices = nullptr;
  const unsigned* at = nullptr;
  unsigned count = 0;
  bool of_compute = false;  // the shares of their time, not their memory
};
// Through the mapping, as it is: a file that its owner cut short meanwhile is SIGBUS.
[[nodiscard]] Status write_limits(Tenant& tenant, const LimitChange& change) noexcept;
using WriteLimits = Status (*)(Tenant&, const LimitChange&) noexcept;
// Other limits for a tenant that exists, where no daemon is: the sum of all is checked under the directory's lock for those
// that rise. kTooLarge: see `sums` (device: index in `devices`); kNotFound; as attach_tenant(). Opens and closes the region's
// file: not for a process that joined it. The region is its owner's to shrink meanwhile: `write` writes behind a guard
// (cli/guarded_limits.h), or SIGBUS is the caller's.
[[nodiscard]] Status set_limits(const Dir& dir, const char* name, const DeviceSpec* devices,
                                unsigned count, bool overcommit, Arithmetic& sums,
                                WriteLimits write = write_limits) noexcept;
// The same for its shares of the devices' time: `devices[].compute`.
[[nodiscard]] Status set_shares(const Dir& dir, const char* name, const DeviceSpec* devices,
                                unsigned count, bool overcommit, Arithmetic& sums,
                                WriteLimits write = write_limits) noexcept;
// kNotFound; kNotReady: a process is live and `force` is not set, or the directory's lock is held by somebody else for
// longer than the caller is patient.
inline constexpr int kBrief_ms = 20;
enum class Patience : std::uint8_t { kEndless, kBrief };
[[nodiscard]] Status remove_tenant(const Dir& dir, const char* name, bool force = false,
                                   Patience patience = Patience::kEndless) noexcept;
// False: the creator of this region is known to have ended (its namespace is ours).
[[nodiscard]] bool creator_may_live(const RegionHeader& h) noexcept;
// Calls `fn` with each tenant's name, in no order; stops when it returns false.
[[nodiscard]] Status list_tenants(const Dir& dir, bool (*fn)(void*, const char*),
                                  void* arg) noexcept;
// Removes ephemeral tenants whose creator and processes are all dead. create_tenant() does it too, and
// `run` at its end.
[[nodiscard]] Status sweep_tenants(const Dir& dir) noexcept;

// The file of a tenant's region, checked for owner, links and size; not its content. A joined process must not open its own.
[[nodiscard]] Result<UniqueFd> open_region(const Dir& dir, const char* name, int flags) noexcept;

// A copy of a region's bytes, read by pread: a shrinking file cannot hurt the reader, and the
// constant fields were checked. Cells may be a moment apart. It is the reader for status; not for
// joined processes, for it opens and closes the file.
class Snapshot {
 public:
  [[nodiscard]] const Region& region() const noexcept { return *copy_.as<const Region>(); }
  [[nodiscard]] unsigned device_count() const noexcept { return device_count_; }
  [[nodiscard]] World world() noexcept;  // liveness of its processes; refers to this object
  [[nodiscard]] unsigned live() noexcept { return count_live(region(), world()); }
  // As lock_holder_of(): a slot's process, whatever its pid namespace.
  [[nodiscard]] std::uint32_t lock_holder(unsigned slot) noexcept {
    return lock_holder_of(fd_.get(), slot);
  }
  // Ephemeral, and its creator and all its processes are known dead: gone but for the next sweep.
  [[nodiscard]] bool left_over() noexcept;
  // Until this object ends nobody joins. False: somebody is joining just now. What was copied before
  // may be out of date: take another.
  [[nodiscard]] bool keep_others_out() noexcept;

 private:
  friend Result<Snapshot> snapshot_tenant(const Dir& dir, const char* name) noexcept;
  Mapping copy_;
  UniqueFd fd_;
  unsigned device_count_ = 0;
};
[[nodiscard]] Result<Snapshot> snapshot_tenant(const Dir& dir, const char* name) noexcept;

// The constant fields of a region, from whatever bytes: sizes, version, counts, units, name.
[[nodiscard]] Status check_region(const Region& r) noexcept;
// Writes a fresh region into zeroed memory; magic last. The spec must be valid (create_tenant
// checks).
void format_region(Region& r, const TenantSpec& spec, const char* name,
                   const Identity& creator) noexcept;
// The bytes of the file that must have room on the file system before anybody maps it.
struct FileRange {
  std::uint64_t offset, bytes;
};
[[nodiscard]] FileRange reserved_range(unsigned device_count, unsigned part) noexcept;  // part 0..3

}  // namespace bulkhead::shm
