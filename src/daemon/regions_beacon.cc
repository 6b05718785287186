// Priorities and beacons: who goes first, told in the page, and who gets which descriptor. docs/formats/beacon.md.
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "daemon/regions_inside.h"
#include "shm/beacon.h"
#include "wire/parse.h"

namespace bulkhead::daemon {
namespace {

bool meet(const HeldRegion& a, const HeldRegion& b) {
  return std::any_of(a.devices().begin(), a.devices().end(),
                     [&b](const HeldRegion::Device& d) { return b.find(d.uuid) >= 0; });
}

}  // namespace

Status TenantRegions::set_priority(const std::string& name, wire::Priority priority) {
  Tenant* const tenant = find(name);
  if (tenant == nullptr) return Status{Errc::kNotFound, 0, "no such tenant"};
  tenant->latency = priority == wire::Priority::kLatency;
  page_.set_latency(name, tenant->latency);
  return {};
}

// Of no page: it is the operator's way to keep a well-meaning tenant from the bus, and a tenant's own word.
Status TenantRegions::set_copy_rate(const std::string& name, std::uint32_t mb_s) {
  Tenant* const tenant = find(name);
  if (tenant == nullptr) return Status{Errc::kNotFound, 0, "no such tenant"};
  tenant->copy_rate_mb_s = mb_s;
  for (unsigned d = 0; d < tenant->region.devices().size(); ++d) {
    if (!tenant->region.set_copy_rate(d, mb_s)) {
      broken(*tenant, "its file was cut short");
      break;
    }
  }
  return {};
}

std::vector<Regions::Beacon> TenantRegions::hand_out(const std::string& name, bool writes) const {
  std::vector<Beacon> out;
  const Tenant* const asker = find(name);
  if (asker == nullptr) return out;
  const auto add = [&out](const Tenant& of, UniqueFd fd, std::uint32_t flags) {
    if (!fd.ok() || out.size() == wire::kMaxBeacons) return;
    Beacon& b = out.emplace_back();
    wire::put_text(b.entry.name, of.name.c_str());
    b.entry.flags = flags;
    for (const HeldRegion::Device& d : of.region.devices()) {
      const std::uint32_t i = b.entry.device_count;
      if (i == wire::kMaxDevices) break;
      std::memcpy(b.entry.uuids[i], d.uuid, sizeof d.uuid);
      b.entry.share_x100[i] = i < of.times.size() ? of.times[i].rules.floor_x100 : 0;
      ++b.entry.device_count;
    }
    b.fd = std::move(fd);
  };
  if (asker->latency) {
    if (writes && asker->beacon.fd.ok())
      add(*asker, UniqueFd{::dup(asker->beacon.fd.get())}, wire::kOwnBeacon);
    return out;
  }
  for (const auto& [other, tenant] : tenants_) {
    if (!tenant->latency || !tenant->beacon.fd.ok() || !meet(asker->region, tenant->region))
      continue;
    auto fd = reopen_read_only(tenant->beacon.fd.get());
    if (fd.ok()) add(*tenant, std::move(*fd), 0);
  }
  return out;
}

std::uint64_t TenantRegions::longest_batch_op_ns(const std::uint8_t* uuid) const {
  std::uint64_t longest = 0;
  bool gated = false;
  for (const auto& [name, tenant] : tenants_) {
    const int d = tenant->region.find(uuid);
    if (d < 0 || static_cast<std::size_t>(d) >= tenant->times.size()) continue;
    if (tenant->latency)
      gated = true;
    else
      longest = std::max(longest, tenant->times[static_cast<std::size_t>(d)].seen.longest_op_ns);
  }
  return gated ? longest : 0;
}

}  // namespace bulkhead::daemon
