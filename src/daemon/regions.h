// The regions of all tenants, as the daemon holds them: made, mapped behind a SIGBUS guard, published in the node page,
// watched for the deaths of their processes. Control loop only. Knows nothing of peers, configuration or policy.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/status.h"
#include "daemon/duty.h"
#include "shm/compute.h"
#include "wire/messages.h"
#include "wire/record.h"
#include "wire/view.h"

namespace bulkhead::daemon {

// Who ended, or what a region turned out to be: told to the journal by whoever owns both.
struct RegionNews {
  wire::EventKind kind;
  std::string tenant;
  std::uint32_t pid = 0;
  std::uint32_t uid = wire::kNoId;
  std::uint64_t bytes = 0;
  std::string text;
};

class Regions {
 public:
  virtual ~Regions() = default;

  // Makes region and directory for `record` (every field valid, the node's sum checked by the caller), owned by
  // record.owner_uid; sets its limits in the page, maps it, raises `adopted`. kExists, kFull, kIo.
  virtual Status make(const wire::TenantRecord& record) = 0;
  // Sets one limit, in the page first either way: it lowers at once, and no process that applies the page meets an older,
  // lower figure after the region was raised. kNotFound.
  virtual Status set_limit(const std::string& name, const std::uint8_t* uuid,
                           std::uint64_t bytes) = 0;
  // Sets one share of a device's time, in the page first, as above; nothing happens if it is that already. kNotFound.
  virtual Status set_compute(const std::string& name, const std::uint8_t* uuid,
                             const shm::ComputeRules& rules) = 0;
  // Whether the others' work waits for it: told to all in the page. kNotFound.
  virtual Status set_priority(const std::string&, wire::Priority) { return {}; }
  // The rate of its copies on each device, 10^6 bytes a second; 0: no limit. kNotFound.
  virtual Status set_copy_rate(const std::string&, std::uint32_t) { return {}; }
  // The beacons for a process of this tenant (docs/formats/beacon.md); `writes`: it may have its own tenant's to write.
  struct Beacon {
    wire::BeaconEntry entry{};
    UniqueFd fd;
  };
  virtual std::vector<Beacon> hand_out(const std::string&, bool /*writes*/) const { return {}; }
  // How its share is enforced (shm::NodeTenantFlag), in the page; `group` "" unless spatial. kNotFound.
  virtual Status set_enforcer(const std::string&, std::uint32_t /*flags*/,
                              const std::string& /*group*/) {
    return {};
  }
  virtual Status set_on_fault(const std::string& name, wire::OnFault value) = 0;
  // The tenants whose shareable memory this one may import, and the other way round (both must name each other).
  virtual Status set_share_with(const std::string& name,
                                const std::vector<std::string>& others) = 0;
  // What the page says of the tenant's audit mode. kNotFound.
  virtual Status set_audit(const std::string&, wire::AuditMode) { return {}; }
  // kNotReady: processes live and `force` is not set.
  virtual Status remove(const std::string& name, bool force) = 0;
  // Bytes held by living processes on a device; 0 if unknown.
  virtual std::uint64_t held(const std::string& name, const std::uint8_t* uuid) const = 0;
  // Fills what the region knows (name, flags, counts, devices[].{uuid,total,limit,used,other,dead,processes, all of its time but gpu_ms}). False: no such tenant.
  virtual bool view(const std::string& name, wire::TenantView& out) const = 0;
  virtual std::vector<std::string> names() const = 0;
  // A process said it has this slot: watched by `pidfd` from now on. `pid` and `start_ticks` are those of this namespace, read
  // after the pidfd was opened. kNotFound, kInvalid (the slot says otherwise).
  virtual Status watch(const std::string& name, std::uint32_t slot, std::uint32_t generation,
                       UniqueFd pidfd, std::uint32_t pid) = 0;
  // The slot's process as this namespace numbers it, for the sentinel: pid -> tenant. One entry a living slot.
  struct Member {
    std::uint32_t pid;  // 0: not watched: no lock of its own is seen
    std::uint64_t start_ticks;
    std::string tenant;
    std::uint32_t slot;
    std::vector<std::uint64_t> booked_bytes;  // by the region's device
    std::vector<std::uint64_t> unseen_bytes;  // the part NVML shows for no process
    std::vector<std::vector<std::uint8_t>> uuids;
  };
  virtual std::vector<Member> members() const = 0;

  // What NVML showed in one round: told to the processes whose own supervisor is not there, so that they correct their
  // books. `began_ns`: CLOCK_MONOTONIC, before NVML was asked.
  struct Sample {
    struct Use {
      std::uint32_t pid = 0;
      std::uint64_t start_ticks = 0;
      std::array<std::uint8_t, wire::kUuidBytes> uuid{};
      std::uint64_t bytes = 0;
    };
    std::uint64_t began_ns = 0;
    std::vector<Use> uses;
  };
  virtual void tell_samples(const Sample&) {}
  // A process of this uid that is older than the daemon may be of a tenant whose region could not be read when the daemon
  // began: that tenant's name; "": no.
  virtual std::string may_be_of_faulty(std::uint32_t, std::uint64_t /*start_ticks*/) const {
    return {};
  }

  // The books of all tenants were read: a round of NVML that begins now can be compared with them.
  std::function<void()> on_read;
  // Set once before the loop begins. found: a region on disk that nobody here made (started without us, or before a
  // restart): its header as a record; the answer says whether to take it over. gone: an ephemeral tenant vanished.
  std::function<bool(const wire::TenantRecord& found)> on_found;
  std::function<void(const std::string& name)> on_gone;
  std::function<void(const RegionNews& news)> on_news;
};

}  // namespace bulkhead::daemon
