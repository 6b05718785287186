// What `bulkhead top` shows, gathered from the regions, NVML and the daemon.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "cli/machine.h"
#include "shm/compute.h"

namespace bulkhead::cli {

inline constexpr double kNoShare = -1;

struct TopDevice {
  std::string uuid;  // digits, without "GPU-"
  std::string gpu;   // NVML's index, else the first digits of the UUID
  std::uint64_t limit_bytes = 0, used_bytes = 0, other_bytes = 0, dead_bytes = 0;
  double share_percent = kNoShare;
  std::uint64_t processes = 0;  // living ones that hold memory here
  shm::ComputeRules compute;
  shm::ComputeSums time;
  double delivered_percent = kNoShare;  // by the library's count
  bool by_daemon = false;               // the delivered share is, over its last second
};
struct TopProcess {
  std::uint32_t pid = 0;       // in its own pid namespace
  std::uint32_t pid_here = 0;  // 0: it cannot be seen from here
  bool our_namespace = true;
  bool dead = false;
  std::string command;                    // printable ASCII
  std::vector<std::uint64_t> used_bytes;  // by the tenant's devices
};
// What only a daemon knows of how a tenant's share is held.
struct TopMode {
  bool told = false;
  bool latency = false;
  std::uint32_t asked = 0, enforcer = 0, mps_state = 0;  // of wire::TenantView
  std::string mps_group;
};
struct TopTenant {
  std::string name;
  TopMode mode;
  std::string problem;     // its region cannot be read
  bool by_daemon = false;  // its region is another's: only the daemon's word, no processes
  bool over_limit = false;
  std::uint64_t refused = 0, faults = 0, processes = 0;
  std::vector<TopDevice> devices;
  std::vector<TopProcess> members;
};
struct TopStray {
  std::uint32_t pid = 0, uid = 0, sightings = 0;
  std::string gpu, command, kind, tenant;
  std::uint64_t bytes = 0;
};
struct TopGpu {
  std::string uuid, gpu, name;
  std::uint64_t total_bytes = 0, used_bytes = 0, promised_bytes = 0;
  double busy_percent = kNoShare;
  std::uint32_t gate_bound_us = 0;  // 0: no latency tenant there, or nothing measured
  bool told = false;                // by a daemon
  std::uint32_t flags = 0;          // of wire::NodeDevice: what self-tests saw
};
struct TopPicture {
  std::int64_t unix_ms = 0;
  std::uint64_t mono_ns = 0;
  std::string directory;
  bool simulated = false;
  bool daemon = false;         // its data is in here
  std::string daemon_problem;  // there is one, and it did not answer as it should
  std::vector<TopGpu> gpus;
  std::vector<TopTenant> tenants;  // by name
  std::vector<TopStray> strays;
};
[[nodiscard]] TopPicture look(const Machine& machine);
// Fills the delivered shares that no daemon has told: used time since the picture before.
void add_delivered(TopPicture& picture, const TopPicture& before);

// Adds what the daemon of `dir` says; false: there is none. top_daemon.cc
bool ask_for_list(const shm::Dir& dir, TopPicture& picture);

}  // namespace bulkhead::cli
