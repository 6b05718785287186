// What the files of TenantRegions share: a tenant and its slots as the daemon remembers them.
#pragma once
#include "daemon/regions_impl.h"
#include "gpu/sampler.h"
#include "policy/compute/governor.h"
#include "shm/world.h"

namespace bulkhead::daemon {

inline constexpr auto kRelaxed = std::memory_order_relaxed;  // in copies nothing is ordered

// A slot as it was last seen.
struct TenantRegions::Slot {
  bool live = false;
  bool reaped = false;  // wiped by us: its end is told already
  bool owed = false;    // its process is gone, what it exported is held by others
  std::uint32_t gen = 0;
  std::uint32_t pid = 0;  // in our namespace; 0: not known there
  std::uint64_t start_ticks = 0;
  UniqueFd pidfd;
  std::uint64_t statistics[5] = {};           // allocs, frees, refused, faults, uncovered
  std::vector<std::uint64_t> booked, unseen;  // by device, bytes
  // The sampler's, by device: the books of the last scan, the rule's memory, the word that was told last (0: none).
  std::vector<HeldRegion::Books> books;
  std::vector<gpu::Observation> seen;
  std::vector<std::uint64_t> told;
};

// A process that lives while its slot is not its any more: its books as they were last.
struct TenantRegions::Lost {
  std::uint32_t slot = 0, pid = 0;
  std::uint64_t start_ticks = 0;
  UniqueFd pidfd;
  std::vector<std::uint64_t> booked, unseen;
  std::uint64_t since_ns = 0;
  bool told = false;
};

struct TenantRegions::Tenant {
  std::string name;
  HeldRegion region;
  std::vector<std::uint64_t> limits;  // by device, bytes as promised; the region rounds to its unit
  // By device, as promised, in range; and the region's sums as they were last seen.
  struct Time {
    shm::ComputeRules rules;
    shm::ComputeSums seen;
    bool looked = false;
    std::uint64_t base_used_ns = 0, base_ns = 0;  // since when the delivered share is measured
    // The governor's.
    policy::compute::TenantState governed{};
    std::vector<policy::compute::ProcessState> processes{};  // by slot
    shm::GivenRate* given = nullptr;                         // in the node page
  };
  std::vector<Time> times;
  std::vector<std::string> share_with;
  std::vector<Slot> slots;     // up to the highest ever seen
  wire::TenantView view{};     // of the last scan
  std::uint64_t past[5] = {};  // statistics of slots that are gone
  std::uint64_t scanned_ns = 0;
  std::uint64_t read_ns = 0;                    // the books in slots were read before
  std::uint64_t beat_s = 0, beat_moved_ns = 0;  // of a supervisor that is not us
  std::vector<Lost> lost;
  unsigned tampered = 0;        // scans in a row in which a limit was not ours
  unsigned reaped_by_scan = 0;  // wiped by the scan, their ends not told yet
  unsigned busy = 0;            // scans in a row that found a reaper at work
  bool ephemeral = false;
  bool told_broken = false;
  bool told_excess = false;  // its file is longer than a region
  shm::Identity creator;
  Sealed beacon;
  bool latency = false;  // its priority
  std::uint32_t copy_rate_mb_s = 0;

  explicit Tenant(HeldRegion held) : region(std::move(held)) {}
};

// The limit as the region keeps it (shm::set_limit).
[[nodiscard]] std::uint64_t in_units(std::uint64_t bytes, std::uint32_t unit_shift);
// The inode of a tenant's region; 0: there is none.
[[nodiscard]] ino_t region_inode(const shm::Dir& dir, const std::string& name);
// Creator of a tenant that is called run-<pid>-<start time>; false: it is not.
[[nodiscard]] bool creator_of_name(const std::string& name, shm::Identity& out);

}  // namespace bulkhead::daemon
