#include "cli/books.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "cli/say.h"
#include "shm/quota.h"
#include "shm/slots.h"
#include "shm/tenant.h"

namespace bulkhead::cli {
namespace {

// The copy is ours alone: nothing is ordered.
constexpr auto kRelaxed = std::memory_order_relaxed;
using shm::Region;

ProcessBooks read_process(shm::Snapshot& shot, const shm::World& world, unsigned slot,
                          unsigned devices) {
  const Region& region = shot.region();
  const shm::ProcSlot& from = region.slots[slot];
  ProcessBooks out;
  out.pid = from.pid.load(kRelaxed);
  out.our_namespace =
      world.pid_namespace != 0 && from.pid_namespace.load(kRelaxed) == world.pid_namespace;
  out.pid_here = out.our_namespace ? out.pid : shot.lock_holder(slot);
  out.dead = shm::owner_dead(region, world, slot, shm::Seat{});
  out.heartbeat_s = from.heartbeat_s.load(kRelaxed);
  out.refused = from.refused.load(kRelaxed);
  for (unsigned d = 0; d < devices; ++d) {
    const std::uint64_t held = shm::slot_held_bytes(region, slot, d);
    out.held_bytes.push_back(held);
    out.other_bytes.push_back(std::min(region.cells[d][slot].other_bytes.load(kRelaxed), held));
  }
  return out;
}

DeviceBooks read_device(const shm::DeviceEntry& from) {
  DeviceBooks out;
  std::memcpy(out.uuid.data(), from.uuid, out.uuid.size());
  out.total_bytes = from.total_bytes;
  out.limit_bytes = from.limit_bytes.load(kRelaxed);
  out.context_bytes = from.context_bytes.load(kRelaxed);
  return out;
}

void add_statistics(const shm::ProcSlot& from, TenantBooks& to) {
  to.allocs += from.allocs.load(kRelaxed) + from.first_allocs.load(kRelaxed);
  to.frees += from.frees.load(kRelaxed) + from.first_frees.load(kRelaxed);
  to.refused += from.refused.load(kRelaxed);
  to.faults += from.faults.load(kRelaxed);
  to.uncovered += from.uncovered.load(kRelaxed);
}

}  // namespace

TenantBooks read_tenant(const shm::Dir& dir, const std::string& name) {
  TenantBooks out;
  out.name = name;
  auto shot = shm::snapshot_tenant(dir, name.c_str());
  if (!shot.ok()) {
    out.problem = describe(shot.status());
    return out;
  }
  const Region& region = shot->region();
  const shm::World world = shot->world();
  out.ephemeral = (region.header.flags & shm::kEphemeral) != 0;
  out.left_over = shot->left_over();
  out.overcommitted = (region.header.flags & shm::kOvercommitted) != 0;
  out.open_on_fault = region.header.on_fault.load(kRelaxed) == shm::kOnFaultOpen;
  out.sampler_beat_s = region.header.sampler_beat_s.load(kRelaxed);
  for (unsigned d = 0; d < shot->device_count(); ++d) {
    out.devices.push_back(read_device(region.devices[d]));
    out.devices.back().compute = shm::region_compute(region, d);
    out.devices.back().time = shm::compute_sums(region, d);
  }
  const unsigned high = std::min(region.header.slots_high.load(kRelaxed), shm::kMaxSlots);
  for (unsigned s = 0; s < high; ++s) {
    add_statistics(region.slots[s], out);
    if (shm::state_of(region.slots[s].state.load(kRelaxed)) == shm::kFree) continue;
    out.processes.push_back(read_process(*shot, world, s, shot->device_count()));
    const ProcessBooks& p = out.processes.back();
    for (unsigned d = 0; d < shot->device_count(); ++d) {
      DeviceBooks& device = out.devices[d];
      (p.dead ? device.dead_bytes : device.used_bytes) += p.held_bytes[d];
      if (!p.dead) device.other_bytes += p.other_bytes[d];
    }
  }
  return out;
}

std::vector<TenantBooks> read_tenants(const shm::Dir& dir) {
  std::vector<std::string> names;
  const auto add = [](void* to, const char* name) {
    static_cast<std::vector<std::string>*>(to)->emplace_back(name);
    return true;
  };
  std::vector<TenantBooks> out;
  if (!shm::list_tenants(dir, add, &names).ok()) return out;
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    TenantBooks tenant = read_tenant(dir, name);
    // Nobody is in it and the next creation removes it before it counts anything.
    if (!tenant.left_over) out.push_back(std::move(tenant));
  }
  return out;
}

std::string command_of(const ProcessBooks& process) {
  std::string name;
  if (process.pid_here != 0) {
    std::ifstream comm{fmt::format("/proc/{}/comm", process.pid_here)};
    std::getline(comm, name, '\0');  // it may have line ends in it
    if (name.ends_with('\n')) name.pop_back();
  }
  for (char& c : name) {
    if (c < ' ' || c > '~') c = '?';  // a process names itself; it does not drive our terminal
  }
  return name;
}

}  // namespace bulkhead::cli
