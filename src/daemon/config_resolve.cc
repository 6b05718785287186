// The configured tenants against the devices that are there.
#include <cstring>

#include "daemon/config.h"
#include "policy/limit.h"
#include "policy/node_admission.h"
#include "shm/node.h"
#include "wire/parse.h"

namespace bulkhead::daemon {
namespace {

using Records = std::vector<wire::TenantRecord>;

std::string gpu_text(const Capacity& c) {
  return "GPU " + std::to_string(c.index) + " (" + uuid_text(c.uuid) + ")";
}

bool wants(const ConfiguredTenant& t, const Capacity& device) {
  if (t.devices.empty()) return true;
  const std::string uuid = uuid_text(device.uuid);
  for (const std::string& d : t.devices) {
    if (policy::gpu_matches(d.c_str(), device.index, uuid.c_str())) return true;
  }
  return false;
}

// A name of a GPU that is not there, or "".
std::string missing_gpu(const ConfiguredTenant& t, const std::vector<Capacity>& devices) {
  const auto there = [&devices](const char* gpu) {
    for (const Capacity& c : devices) {
      if (policy::gpu_matches(gpu, c.index, uuid_text(c.uuid).c_str())) return true;
    }
    return false;
  };
  for (const std::string& d : t.devices) {
    if (!there(d.c_str())) return d;
  }
  for (unsigned i = 0; i < t.memory.count; ++i) {
    if (!there(t.memory.entries[i].gpu)) return t.memory.entries[i].gpu;
  }
  return {};
}

// Problem text, or "".
std::string grant(const ConfiguredTenant& t, const Capacity& device, wire::TenantRecord& r) {
  const std::string uuid = uuid_text(device.uuid);
  std::uint64_t bytes = device.total_bytes;
  if (t.has_memory) {
    const policy::Size* size = policy::size_for(t.memory, device.index, uuid.c_str());
    if (size == nullptr) return {};
    bytes = policy::limit_of(*size, device.total_bytes);
  }
  char text[policy::kSizeText];
  if (bytes < policy::kLeastLimit) {
    return "memory comes to " + std::string{policy::format_exact(bytes, text)} + " on " +
           gpu_text(device) + ", less than the 2 MiB a driver hands out; write a unit";
  }
  if (bytes > device.total_bytes) {
    char total[policy::kSizeText];
    return "memory " + std::string{policy::format_exact(bytes, text)} + " is more than the " +
           policy::format_size(device.total_bytes, total) + " of " + gpu_text(device) +
           "; lower it";
  }
  if (r.device_count == wire::kMaxDevices) return "more than 16 devices; name some with devices";
  wire::DeviceGrant& g = r.devices[r.device_count++];
  std::memcpy(g.uuid, device.uuid, sizeof g.uuid);
  g.memory_bytes = bytes;
  g.compute_x100 = t.compute_x100;
  g.ceiling_x100 = t.ceiling_x100;
  return {};
}

std::uint32_t promised_x100(const wire::TenantRecord& r, const std::uint8_t* uuid) {
  for (unsigned i = 0; i < r.device_count; ++i) {
    if (std::memcmp(r.devices[i].uuid, uuid, wire::kUuidBytes) == 0)
      return r.devices[i].compute_x100;
  }
  return 0;
}

std::uint64_t granted(const wire::TenantRecord& r, const std::uint8_t* uuid) {
  for (unsigned i = 0; i < r.device_count; ++i) {
    if (std::memcmp(r.devices[i].uuid, uuid, wire::kUuidBytes) == 0)
      return r.devices[i].memory_bytes;
  }
  return 0;
}

// Whether this tenant still fits beside those before it in the file.
std::string over_device(const Config& config, const Records& before, const wire::TenantRecord& r,
                        const Capacity& device) {
  policy::NodeSum sum{device.total_bytes, 0, 0, 0, granted(r, device.uuid)};
  std::uint64_t to_class = 0;
  const auto in_class = [&config](const wire::TenantRecord& t) {
    return !config.reserve_class.empty() && config.reserve_class == t.reserve_class;
  };
  for (const wire::TenantRecord& b : before) {
    sum.promised_bytes += granted(b, device.uuid);
    if (in_class(b)) to_class += granted(b, device.uuid);
  }
  policy::Size share;
  share.percent_x100 = config.reserve_x100;
  share.is_percent = true;
  const std::uint64_t reserve =
      config.reserve_x100 == 0 ? 0 : policy::limit_of(share, device.total_bytes);
  sum.reserve_bytes = policy::reserve_kept(reserve, to_class, in_class(r));
  if (sum.asked_bytes != 0 && !policy::node_fits(sum))
    return policy::node_sum_text(sum, gpu_text(device)) + "; lower a limit";
  policy::TimeSum time{0, promised_x100(r, device.uuid)};
  for (const wire::TenantRecord& b : before) time.promised_x100 += promised_x100(b, device.uuid);
  if (policy::time_fits(time)) return {};
  return policy::time_sum_text(time, gpu_text(device)) + "; lower a compute";
}

}  // namespace

std::string uuid_text(const std::uint8_t* uuid) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string out = "GPU-";
  for (unsigned i = 0; i < wire::kUuidBytes; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) out += '-';
    out += kHex[uuid[i] >> 4];
    out += kHex[uuid[i] & 15];
  }
  return out;
}

std::string default_problem(const Config& config, std::uint32_t daemon_uid) {
  for (const ConfiguredTenant& t : config.tenants) {
    if (daemon_uid != 0 || config.default_tenant != static_cast<const char*>(t.record.name) ||
        t.record.match_uid != wire::kNoId) {
      continue;
    }
    return config.file + ":" + std::to_string(config.default_line) +
           ": [policy] unmatched: only one user's processes can use the region of a tenant, and " +
           config.default_tenant + " does not say whose; give it match = {uid = N} (0: root's), " +
           "and every other user a [[tenant]]";
  }
  return {};
}

Outcome<Records> resolve_tenants(const Config& config, const std::vector<Capacity>& devices,
                                 std::uint32_t daemon_uid) {
  Records out;
  if (std::string p = default_problem(config, daemon_uid); !p.empty())
    return Outcome<Records>::because(std::move(p));
  if (config.tenants.size() > shm::kMaxTenants) {
    return Outcome<Records>::because(
        config.file + ":" + std::to_string(config.tenants[shm::kMaxTenants].line) +
        ": one [[tenant]] too many; a node has at most " + std::to_string(shm::kMaxTenants));
  }
  for (const ConfiguredTenant& t : config.tenants) {
    const auto because = [&](const std::string& why) {
      return Outcome<Records>::because(config.file + ":" + std::to_string(t.line) + ": tenant " +
                                       t.record.name + ": " + why);
    };
    wire::TenantRecord r = t.record;
    if (r.owner_uid == wire::kNoId) r.owner_uid = daemon_uid;
    if (daemon_uid != 0 && r.owner_uid != daemon_uid) {
      return because("match.uid is another user's; only root's daemon serves other users");
    }
    if (const std::string gpu = missing_gpu(t, devices); !gpu.empty()) {
      return because("there is no GPU " + gpu + " here; 'nvidia-smi -L' lists them");
    }
    for (const Capacity& device : devices) {
      if (!wants(t, device)) continue;
      if (const std::string p = grant(t, device, r); !p.empty()) return because(p);
    }
    if (r.device_count == 0) return because("it is granted no GPU; see devices and memory");
    for (const Capacity& device : devices) {
      if (const std::string p = over_device(config, out, r, device); !p.empty()) return because(p);
    }
    out.push_back(r);
  }
  return out;
}

}  // namespace bulkhead::daemon
