#include "cli/run_tenant.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "cli/devices.h"
#include "cli/remote.h"
#include "policy/compute_spec.h"
#include "policy/limit.h"
#include "shm/quota.h"

namespace bulkhead::cli {
namespace {

// The region is its owner's to shrink: it is guarded before its first byte is read.
Problem take_tenant(Run& run, shm::Tenant tenant) {
  auto guarded = guard(&tenant.region(), sizeof(shm::Region));
  if (!guarded.ok()) return fmt::format("tenant {}: {}", tenant.name(), describe(guarded.status()));
  run.guard.reset();
  run.tenant = std::move(tenant);
  run.guard = std::move(*guarded);
  return {};
}

Problem limit_for(const Request& request, unsigned index, const std::string& uuid,
                  std::uint64_t total_bytes, std::uint64_t& out) {
  out = 0;
  const policy::Size* size = policy::size_for(request.memory, index, uuid.c_str());
  if (size == nullptr) return {};                               // no grant on this GPU
  const bool no_limit = !size->is_percent && size->bytes == 0;  // HAMi's zero
  out = no_limit ? total_bytes : policy::limit_of(*size, total_bytes);
  if (out >= policy::kLeastLimit) return {};
  return fmt::format(
      "{} gives GPU {} {}, less than the 2 MiB a driver hands out: write a unit, like {}GiB",
      request.memory_from, index, size_text(out), out == 0 ? 1 : out);
}

Problem entry_without_gpu(const Request& request, const std::vector<Calibration>& gpus) {
  for (unsigned e = 0; e < request.memory.count; ++e) {
    const char* name = request.memory.entries[e].gpu;
    bool found = false;
    for (unsigned i = 0; i < gpus.size(); ++i) {
      found |= policy::gpu_matches(name, i, gpus[i].uuid.c_str());
    }
    if (!found) {
      return fmt::format("{} names GPU {}, and {} visible: see 'bulkhead status'",
                         request.memory_from, name,
                         gpus.size() == 1 ? std::string{"only GPU 0 is"}
                                          : fmt::format("{} GPUs are", gpus.size()));
    }
  }
  return {};
}

Problem driver_problem(const std::string& problem) {
  const bool missing = problem.find("cannot open shared object") != std::string::npos;
  return missing ? problem + "; install the NVIDIA driver, or use --sim for the simulated one"
                 : problem;
}

// A visible GPU the tenant is granted: its index as the command sees it, and what is known of it.
struct Granted {
  unsigned index;
  const Calibration* gpu;
};

std::string percent_text(std::uint32_t x100) {
  char text[policy::kShareText];
  return policy::format_share(x100, false, text);
}

Problem refused(const shm::Arithmetic& sums, const Status& status,
                const std::vector<Granted>& granted, const std::string& name) {
  if (status.code() != Errc::kTooLarge) {
    return fmt::format("cannot make tenant {}: {}", name, describe(status));
  }
  const Granted& on = granted[sums.device];
  if (sums.of_compute) {
    const std::uint32_t room =
        shm::kWholeDevice_x100 - std::min(shm::kWholeDevice_x100, sums.committed_x100);
    return fmt::format(
        "{} asked of the time of GPU {} ({}) + {} promised to other tenants > 100%; {}remove a "
        "tenant ('bulkhead rm'), or use --overcommit",
        percent_text(sums.asked_x100), on.index, on.gpu->uuid, percent_text(sums.committed_x100),
        room == 0 ? "" : fmt::format("ask for at most {}, ", percent_text(room)));
  }
  const std::uint64_t left =
      sums.total_bytes > sums.committed_bytes ? sums.total_bytes - sums.committed_bytes : 0;
  return fmt::format(
      "{} asked on GPU {} ({}) + {} promised to other tenants > {} on it; ask for at most {}, "
      "remove a tenant ('bulkhead rm'), or use --overcommit",
      size_text(sums.asked_bytes), on.index, on.gpu->uuid, size_text(sums.committed_bytes),
      size_text(sums.total_bytes), exact_text(left));
}

// What is asked, as limits on the GPUs that are visible.
struct Asked {
  shm::TenantSpec spec;
  std::vector<Calibration> gpus;
  std::vector<Granted> granted;  // look into gpus
};

Problem read_asked(const Run& run, Asked& out) {
  const Request& request = run.request;
  Machine& machine = run.machine;
  std::string note;
  const DeviceChoice choice{machine.nvml ? &*machine.nvml : nullptr, machine.simulator,
                            machine.state};
  auto gpus = visible_devices(choice, note);
  if (!gpus.ok()) return driver_problem(gpus.problem);
  if (!note.empty() && !run.options.quiet) warn("what was measured is not kept: " + note);
  if (gpus->size() > shm::kMaxDevices) gpus->resize(shm::kMaxDevices);
  if (Problem p = entry_without_gpu(request, *gpus); !p.empty()) return p;
  out.gpus = std::move(*gpus);
  for (unsigned i = 0; i < out.gpus.size(); ++i) {
    const Calibration& gpu = out.gpus[i];
    shm::DeviceSpec device;
    if (Problem p = limit_for(request, i, gpu.uuid, gpu.total_bytes, device.limit_bytes);
        !p.empty())
      return p;
    const auto uuid = parse_uuid(gpu.uuid);
    if (device.limit_bytes == 0 || !uuid) continue;
    std::memcpy(device.uuid, uuid->data(), uuid->size());
    device.total_bytes = gpu.total_bytes;
    device.compute = request.share.rules;
    out.spec.devices[out.spec.device_count++] = device;
    out.granted.push_back({i, &gpu});
  }
  if (out.spec.device_count == 0) return request.memory_from + " grants no visible GPU";
  return {};
}

// Makes the tenant. `exists` is set if another `run` was faster.
Problem create(Run& run, std::string& name, bool& exists) {
  const Request& request = run.request;
  Machine& machine = run.machine;
  Asked asked;
  if (Problem p = read_asked(run, asked); !p.empty()) return p;
  shm::TenantSpec& spec = asked.spec;
  const std::vector<Granted>& granted = asked.granted;
  spec.name = name.empty() ? nullptr : name.c_str();
  spec.ephemeral = name.empty();
  spec.owner_uid = ::geteuid();
  spec.overcommit = run.options.overcommit;
  spec.on_fault = request.open_on_fault ? shm::kOnFaultOpen : shm::kOnFaultDeny;
  shm::Arithmetic sums;
  char made[shm::kNameBytes] = {};
  const Status status = shm::create_tenant(machine.dir, spec, sums, &made);
  exists = status.code() == Errc::kExists;
  if (!status.ok()) {
    return refused(sums, status, granted, name.empty() ? "for this run" : name);
  }
  if (sums.unreadable != 0 && !run.options.quiet) {
    warn(
        fmt::format("{} region(s) in {} cannot be read and were not counted: see 'bulkhead status'",
                    sums.unreadable, machine.dir.path));
  }
  name = made;
  auto tenant = shm::attach_tenant(machine.dir, made);
  if (!tenant.ok()) return fmt::format("tenant {}: {}", made, describe(tenant.status()));
  if (Problem p = take_tenant(run, std::move(*tenant)); !p.empty()) return p;
  for (unsigned d = 0; d < granted.size(); ++d) {
    shm::publish_facts(run.tenant.region(), d, granted[d].gpu->facts);
  }
  return {};
}

Problem check_same_share(const Run& run) {
  const AskedShare& asked = run.request.share;
  for (unsigned d = 0; asked.has_compute && d < run.tenant.device_count(); ++d) {
    shm::ComputeRules has = shm::region_compute(run.tenant.region(), d);
    const shm::ComputeRules all = has;
    if (!asked.has_burst) has.burst_us = asked.rules.burst_us;
    if (!asked.has_window) has.window_us = asked.rules.window_us;
    has.dampening_x1000 = asked.rules.dampening_x1000;
    if (all.limited() && has == asked.rules) continue;
    return fmt::format(
        "tenant {} has a share of {} of GPU {}'s time, burst {} us, window {} us, not the {} asked "
        "for; leave that out to join it, or 'bulkhead set {} --compute' to change it",
        run.tenant.name(), share_text(all), d, all.burst_us, all.window_us, share_text(asked.rules),
        run.tenant.name());
  }
  return {};
}

// A tenant that exists keeps its limits: other ones asked for are refused, not dropped.
Problem check_same(const Run& run) {
  const shm::Region& region = run.tenant.region();
  if (Problem p = check_same_share(run); !p.empty()) return p;
  for (unsigned d = 0; run.request.has_memory && d < run.tenant.device_count(); ++d) {
    const shm::DeviceEntry& device = region.devices[d];
    const std::string uuid = "GPU-" + uuid_digits(device.uuid);
    std::uint64_t asked = 0;
    if (Problem p = limit_for(run.request, d, uuid, device.total_bytes, asked); !p.empty())
      return p;
    const std::uint64_t has = shm::limit_bytes(region, d);
    const std::uint64_t unit = 1ull << (device.unit_shift & 31);
    if (asked / unit * unit == has) continue;
    return fmt::format(
        "tenant {} has {} on GPU {}, not the {} that {} asks for; leave that out to join it, or "
        "'bulkhead "
        "rm {}' first",
        run.tenant.name(), size_text(has), d, asked == 0 ? "nothing" : size_text(asked),
        run.request.memory_from, run.tenant.name());
  }
  return {};
}

Problem attach_by_name(Run& run, const std::string& name) {
  auto tenant = shm::attach_tenant(run.machine.dir, name.c_str());
  if (!tenant.ok()) return fmt::format("tenant {}: {}", name, describe(tenant.status()));
  return take_tenant(run, std::move(*tenant));
}

// The record of a tenant that exists, to join it, or of the one that is asked for.
Problem fill_record(Run& run, const Asked& asked, wire::TenantRecord& record) {
  const AskedShare& share = run.request.share;
  put_pace(share, record);
  const auto add = [&record, &share](const std::uint8_t* uuid, std::uint64_t bytes) {
    wire::DeviceGrant& g = record.devices[record.device_count++];
    std::memcpy(g.uuid, uuid, sizeof g.uuid);
    g.memory_bytes = bytes;
    put_share(share, record, g);
  };
  for (unsigned d = 0; run.request.has_memory && d < asked.spec.device_count; ++d) {
    add(asked.spec.devices[d].uuid, asked.spec.devices[d].limit_bytes);
  }
  if (run.request.has_memory) return {};
  std::string name = run.request.tenant;
  if (name.empty()) name = ask_who(run.daemon);
  if (name.empty()) return kNoQuota;
  if (Problem p = attach_by_name(run, name); !p.empty()) return p;
  wire::put_text(record.name, name.c_str());
  for (unsigned d = 0; d < run.tenant.device_count(); ++d) {
    // with a share its limit is not compared: 0 asks for nothing
    add(run.tenant.region().devices[d].uuid,
        share.has_compute ? 0 : shm::limit_bytes(run.tenant.region(), d));
  }
  return {};
}

}  // namespace

Problem region_cut_short(const Run& run) {
  if (!run.guard.faulted()) return {};
  return fmt::format("{}/tenants/{}/region was cut short; 'bulkhead rm {}' removes it",
                     run.machine.dir.path, run.tenant.name(), run.tenant.name());
}

Problem enrol_with_daemon(Run& run) {
  Asked asked;
  if (run.request.has_memory) {
    if (Problem p = read_asked(run, asked); !p.empty()) return p;
  }
  wire::RegisterRequest q{};
  wire::put_text(q.record.name, run.request.tenant.c_str());
  q.record.owner_uid = ::geteuid();
  q.record.match_uid = q.record.match_gid = wire::kNoId;
  q.record.flags = run.options.overcommit ? std::uint32_t{wire::kRecordOvercommit} : 0;
  q.record.on_fault = run.request.open_on_fault ? wire::OnFault::kOpen : wire::OnFault::kDeny;
  q.flags = wire::kJoinExisting |
            (run.request.has_memory || run.request.share.has_compute ? wire::kSameOrRefuse : 0);
  if (Problem p = fill_record(run, asked, q.record); !p.empty()) return p;
  if (!run.options.wait_time.empty()) (void)parse_wait(run.options.wait_time, q.wait_ms);
  std::string name;
  Problem problem;
  const int code = enrol(run.daemon, q, run.options.quiet, name, problem);
  if (code != 0) {
    if (code != kExitOurs) run.left_queue = code;
    return problem.empty() ? "left the queue" : problem;
  }
  run.by_daemon = true;
  run.daemon.close();  // it ends idle connections; what is asked later is asked anew
  if (Problem p = attach_by_name(run, name); !p.empty()) return p;
  run.ephemeral = (run.tenant.region().header.flags & shm::kEphemeral) != 0;
  for (const Granted& g : asked.granted) {
    const auto uuid = parse_uuid(g.gpu->uuid);
    for (unsigned d = 0; d < run.tenant.device_count(); ++d) {
      if (uuid && std::memcmp(uuid->data(), run.tenant.region().devices[d].uuid, uuid->size()) == 0)
        shm::publish_facts(run.tenant.region(), d, g.gpu->facts);
    }
  }
  return {};
}

void forget_tenant(Run& run) {
  if (!run.ephemeral) return;
  wire::Client client;
  std::string problem;
  if (run.by_daemon && connect_daemon(run.machine.dir, client, problem) == Daemon::kAnswers) {
    wire::NameRequest q{};
    wire::put_text(q.name, run.tenant.name());
    bool ok = false;
    (void)ask_verdict(client, wire::Kind::kUnregister, q, ok);
    return;  // refused while processes of it run: the daemon removes it after the last
  }
  (void)shm::remove_tenant(run.machine.dir, run.tenant.name());
}

Problem attach_or_create(Run& run) {
  std::string name = run.request.tenant;
  for (int tries = 0; tries < 3; ++tries) {
    if (!name.empty()) {
      auto tenant = shm::attach_tenant(run.machine.dir, name.c_str());
      if (tenant.ok()) {
        if (Problem p = take_tenant(run, std::move(*tenant)); !p.empty()) return p;
        return check_same(run);
      }
      if (tenant.status().code() != Errc::kNotFound) {
        return fmt::format("{}/tenants/{}/region: {}; 'bulkhead rm {}' removes it",
                           run.machine.dir.path, name, describe(tenant.status()), name);
      }
      if (!run.request.has_memory) {
        return fmt::format("there is no tenant {}: give --memory SIZE to make it", name);
      }
    }
    bool exists = false;
    Problem p = create(run, name, exists);
    if (!exists) {
      run.ephemeral = run.request.tenant.empty();
      return p;
    }
  }
  return fmt::format("tenant {} comes and goes: try again", name);
}

}  // namespace bulkhead::cli
