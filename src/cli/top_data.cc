#include "cli/top_data.h"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>

#include "base/clock.h"
#include "cli/books.h"
#include "cli/gpus.h"

namespace bulkhead::cli {
namespace {

std::string gpu_of(const TopPicture& p, const std::string& digits) {
  for (const TopGpu& g : p.gpus) {
    if (g.uuid == digits) return g.gpu;
  }
  return digits.substr(0, 3);
}

TopTenant tenant_of(const TopPicture& p, const TenantBooks& books) {
  TopTenant out;
  out.name = books.name;
  out.problem = books.problem;
  out.refused = books.refused;
  out.faults = books.faults;
  for (const DeviceBooks& d : books.devices) {
    TopDevice device;
    device.uuid = uuid_digits(d.uuid.data());
    device.gpu = gpu_of(p, device.uuid);
    device.limit_bytes = d.limit_bytes;
    device.used_bytes = d.used_bytes;
    device.other_bytes = d.other_bytes;
    device.dead_bytes = d.dead_bytes;
    device.compute = d.compute;
    device.time = d.time;
    out.over_limit |= d.used_bytes > d.limit_bytes;
    out.devices.push_back(device);
  }
  for (const ProcessBooks& b : books.processes) {
    out.members.push_back(
        {b.pid, b.pid_here, b.our_namespace, b.dead, command_of(b), b.held_bytes});
    if (b.dead) continue;
    ++out.processes;
    for (std::size_t d = 0; d < out.devices.size(); ++d) {
      out.devices[d].processes += b.held_bytes[d] != 0 ? 1 : 0;
    }
  }
  return out;
}

void add_gpus(const Machine& machine, TopPicture& p) {
  if (!machine.nvml) return;
  for (const NvmlGpu& g : machine.nvml->gpus()) {
    const auto uuid = parse_uuid(g.uuid);
    TopGpu gpu;
    gpu.uuid = uuid ? uuid_digits(uuid->data()) : g.uuid;
    gpu.gpu = std::to_string(g.index);
    gpu.name = g.name;
    gpu.total_bytes = g.total_bytes;
    gpu.used_bytes = g.used_bytes;
    p.gpus.push_back(gpu);
  }
}

}  // namespace

TopPicture look(const Machine& machine) {
  TopPicture p;
  p.unix_ms = static_cast<std::int64_t>(clock_ns(CLOCK_REALTIME) / 1'000'000);
  p.mono_ns = monotonic_ns();
  p.directory = machine.directory;
  p.simulated = machine.simulated;
  add_gpus(machine, p);
  if (machine.dir.fd.ok()) {
    for (const TenantBooks& books : read_tenants(machine.dir))
      p.tenants.push_back(tenant_of(p, books));
    p.daemon = ask_for_list(machine.dir, p);
  }
  std::sort(p.tenants.begin(), p.tenants.end(),
            [](const TopTenant& a, const TopTenant& b) { return a.name < b.name; });
  if (!p.daemon) {  // else it has said so itself
    for (TopGpu& g : p.gpus) {
      for (const TopTenant& t : p.tenants) {
        for (const TopDevice& d : t.devices)
          g.promised_bytes += d.uuid == g.uuid ? d.limit_bytes : 0;
      }
    }
  }
  return p;
}

void add_delivered(TopPicture& picture, const TopPicture& before) {
  for (TopTenant& t : picture.tenants) {
    const auto was = std::find_if(before.tenants.begin(), before.tenants.end(),
                                  [&t](const TopTenant& b) { return b.name == t.name; });
    if (was == before.tenants.end() || t.by_daemon) continue;
    for (TopDevice& d : t.devices) {
      for (const TopDevice& b : was->devices) {
        if (b.uuid != d.uuid || d.by_daemon || !d.compute.limited()) continue;
        d.delivered_percent =
            shm::delivered_x100(b.time.used_ns, d.time.used_ns, picture.mono_ns - before.mono_ns) /
            100.0;
      }
    }
  }
}

}  // namespace bulkhead::cli
