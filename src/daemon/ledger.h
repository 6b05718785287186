// The ledger: what is promised to whom on this node. The one core behind every front end: register, update,
// unregister. Decides by policy (src/policy), acts through Regions. Control loop only.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "daemon/journal.h"
#include "daemon/regions.h"
#include "wire/messages.h"
#include "wire/record.h"

namespace bulkhead::daemon {

enum class Source : std::uint8_t { kConfigured, kFrontEnd, kAdopted };

struct Entry {
  wire::TenantRecord record{};
  Source source = Source::kFrontEnd;
  std::int64_t since_unix_s = 0;
};

// What a device can give, in bytes; the sentinel's last round and the calibration keep it fresh.
struct Capacity {
  std::uint8_t uuid[wire::kUuidBytes];
  std::string name;
  unsigned index = 0;
  std::uint64_t total_bytes =
      0;  // cuDeviceTotalMem (NVML's total less the driver's reserve until it is measured)
  std::uint64_t overhead_bytes = 0;  // held by processes of no tenant
  std::uint64_t reserve_bytes = 0;
};

// Who asks. From the kernel, never from a message.
struct Peer {
  std::uint32_t pid = 0;  // in our namespace; 0 if it is in one we cannot see
  std::uint32_t uid = wire::kNoId;
  std::uint32_t gid = wire::kNoId;
  std::uint64_t start_ticks = 0;
  std::string cgroup;  // path below the root, from /proc/PID/cgroup; "" unknown
};

}  // namespace bulkhead::daemon
