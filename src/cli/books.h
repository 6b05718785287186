// The books of all tenants of a directory, copied out of their regions. Trusts nothing in them:
// sums may be odd, but reading cannot fail on any content.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "cli/gpus.h"
#include "shm/compute.h"
#include "shm/dir.h"

namespace bulkhead::cli {

struct ProcessBooks {
  std::uint32_t pid = 0;       // in its own pid namespace
  std::uint32_t pid_here = 0;  // as we number it; 0: it cannot be seen from here
  bool our_namespace = false;
  bool dead = false;  // what it held is free for the next who asks
  std::uint64_t heartbeat_s = 0;
  std::uint64_t refused = 0;
  std::vector<std::uint64_t> held_bytes;   // by device
  std::vector<std::uint64_t> other_bytes;  // the part that is contexts, modules, heaps
};

struct DeviceBooks {
  Uuid uuid{};
  std::uint64_t total_bytes = 0;
  std::uint64_t limit_bytes = 0;
  std::uint64_t used_bytes = 0;   // by the living, `other` included
  std::uint64_t other_bytes = 0;  // by the living
  std::uint64_t dead_bytes = 0;   // held by processes that have died, until somebody needs it
  std::uint64_t context_bytes = 0;
  shm::ComputeRules compute;  // what the region says of its time
  shm::ComputeSums time;
  [[nodiscard]] std::uint64_t free_bytes() const {
    return used_bytes < limit_bytes ? limit_bytes - used_bytes : 0;
  }
};

struct TenantBooks {
  std::string name;
  std::string problem;  // not empty: the region cannot be read, and nothing below is known
  bool ephemeral = false;
  bool left_over = false;  // ephemeral, without its creator and without processes
  bool overcommitted = false;
  bool open_on_fault = false;
  std::uint64_t sampler_beat_s = 0;  // CLOCK_BOOTTIME, 0 = nobody samples
  std::uint64_t allocs = 0, frees = 0, refused = 0, faults = 0, uncovered = 0;
  std::vector<DeviceBooks> devices;
  std::vector<ProcessBooks> processes;  // those whose slot is taken
};

[[nodiscard]] TenantBooks read_tenant(const shm::Dir& dir, const std::string& name);
// In order of name. A directory without tenants has none.
[[nodiscard]] std::vector<TenantBooks> read_tenants(const shm::Dir& dir);

// What /proc calls its command, with nothing in it that a terminal obeys; "" if it cannot be known here.
[[nodiscard]] std::string command_of(const ProcessBooks& process);

}  // namespace bulkhead::cli
