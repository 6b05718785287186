// One tenant's region in the daemon's hands. It is read by pread into a buffer that all regions share, so that nothing
// a tenant does to its file can reach us, and few pages stay in our memory; it is written through a mapping that is
// guarded against a file cut short. Control loop only.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/bus_guard.h"
#include "base/status.h"
#include "shm/supervise.h"
#include "shm/tenant.h"
#include "wire/record.h"

namespace bulkhead::daemon {

// The buffer that look() fills: one for the whole daemon.
class Scratch {
 public:
  Scratch();
  [[nodiscard]] shm::Region& get() const { return *map_.as<shm::Region>(); }

 private:
  Mapping map_;
};

class HeldRegion {
 public:
  // What was true when it was opened, and must stay true.
  struct Device {
    std::uint8_t uuid[shm::kUuidBytes];
    std::uint64_t total_bytes;
    std::uint32_t unit_shift;
  };

  // Opens, checks, maps and guards. `uid` is the file's owner as the kernel has it. As shm::attach_tenant(), and kFull
  // (no guard left).
  static Result<HeldRegion> open(const shm::Dir& dir, const std::string& name,
                                 const Scratch& scratch);

  // Copies header, devices, slots, cells and compute entries into `scratch`: cells may be a moment apart. Not ok: the file is short or
  // its constant fields changed; from then on the region is broken() and is not touched again.
  [[nodiscard]] Status look(const Scratch& scratch);
  [[nodiscard]] bool broken() const { return broken_; }
  // Of its file at the last look, beyond sizeof(Region): its owner made it longer. We read none of it and cut nothing off: to
  // free what was written there takes as long as its owner likes, and the control loop waits for nobody.
  [[nodiscard]] std::uint64_t excess_bytes() const { return excess_bytes_; }

  // One slot as it is now: whose it is, and the bytes it holds on all devices.
  struct Owner {
    bool live = false;
    std::uint32_t gen = 0, pid = 0;
    std::uint64_t start_ticks = 0, pid_namespace = 0;
    bool operator==(const Owner&) const = default;
  };
  [[nodiscard]] Owner owner(unsigned slot);
  // The process that holds the slot's record lock, in our namespace; 0: none, or it cannot be seen from here. Nobody but
  // that process can bring this about, whatever it writes.
  [[nodiscard]] std::uint32_t lock_holder(unsigned slot);
  [[nodiscard]] std::uint64_t held_by(unsigned slot);

  // What must not change while NVML is asked of a process. `moves`: allocations and frees, so that a pair of them, which
  // leaves the words as they were, is seen too.
  struct Books {
    std::uint64_t state = 0, word = 0, other = 0, unseen = 0, held = 0, moves = 0;
    bool operator==(const Books&) const = default;
  };
  [[nodiscard]] static Books books_in(const shm::Region& r, unsigned slot, unsigned device);
  [[nodiscard]] Books books(unsigned slot, unsigned device);  // as they are now

  // For the governor: the words as they are, through the guarded mapping; null: broken. What was read counts if whole() then.
  [[nodiscard]] const shm::Region* words() { return broken_ ? nullptr : &tenant_.region(); }
  [[nodiscard]] bool whole() { return held(); }
  [[nodiscard]] int descriptor() { return tenant_.descriptor(); }

  // The supervisor's place (docs/formats/region.md): tried, never waited for; taken for the moment of a write.
  [[nodiscard]] bool take_place();
  void leave_place();

  // The rest writes, through the mapping. False: the region is broken, or broke under it.
  bool adopt();  // `adopted` + 1: its processes map the page (again)
  bool set_limit(unsigned device, std::uint64_t bytes);
  bool set_compute(unsigned device, const shm::ComputeRules& rules);
  bool set_copy_rate(unsigned device, std::uint32_t mb_s);
  bool set_on_fault(wire::OnFault value);
  [[nodiscard]] std::uint64_t sampler_beat_s();
  bool observe(unsigned slot, unsigned device, const shm::Observed& figure);
  bool end_round();  // what was observed is told; nobody beats
  // kGone of a broken one: there are no books left to wipe.
  shm::Reaped reap(unsigned slot, std::uint32_t gen);
  unsigned reap_dead();

  [[nodiscard]] shm::World world() { return tenant_.world(); }
  [[nodiscard]] uid_t uid() const { return uid_; }
  [[nodiscard]] ino_t inode() const { return inode_; }
  [[nodiscard]] const std::vector<Device>& devices() const { return devices_; }
  // Index of a device; -1: none.
  [[nodiscard]] int find(const std::uint8_t* uuid) const;

 private:
  bool held();  // still whole after a write
  shm::Tenant tenant_;
  GuardedRange guard_;
  std::vector<Device> devices_;
  uid_t uid_ = 0;
  ino_t inode_ = 0;
  std::uint32_t flags_ = 0;
  std::uint64_t excess_bytes_ = 0;
  bool broken_ = false;
  bool touched_ = false;  // through the mapping, since the last look
};

}  // namespace bulkhead::daemon
