#include "cli/set.h"

#include <fmt/format.h>

#include <cstring>

#include "cli/books.h"
#include "cli/guarded_limits.h"
#include "cli/install.h"
#include "cli/machine.h"
#include "cli/mode.h"
#include "cli/remote.h"
#include "cli/request.h"
#include "cli/say.h"
#include "policy/compute_spec.h"
#include "policy/limit.h"
#include "shm/tenant.h"

namespace bulkhead::cli {
namespace {

struct Wanted {
  shm::DeviceSpec devices[shm::kMaxDevices];
  unsigned count = 0;
};

// The index of a GPU is NVML's, as `status` shows it; without NVML the tenant's own order.
unsigned index_of(const Machine& machine, const Uuid& uuid, unsigned own) {
  if (!machine.nvml) return own;
  for (const NvmlGpu& gpu : machine.nvml->gpus()) {
    if (const auto has = parse_uuid(gpu.uuid); has && *has == uuid) return gpu.index;
  }
  return own;
}

std::string read_wanted(const Machine& machine, const TenantBooks& tenant,
                        const policy::MemorySpec& spec, Wanted& out) {
  unsigned own = 0;
  for (const DeviceBooks& d : tenant.devices) {
    const unsigned index = index_of(machine, d.uuid, own++);
    const std::string uuid = "GPU-" + uuid_digits(d.uuid.data());
    const policy::Size* size = policy::size_for(spec, index, uuid.c_str());
    if (size == nullptr) continue;
    shm::DeviceSpec& to = out.devices[out.count++];
    std::memcpy(to.uuid, d.uuid.data(), sizeof to.uuid);
    to.total_bytes = d.total_bytes;
    to.limit_bytes = policy::limit_of(*size, d.total_bytes);
    if (to.limit_bytes < policy::kLeastLimit) {
      return fmt::format(
          "--memory gives GPU {} {}, less than the 2 MiB a driver hands out: write a unit", index,
          size_text(to.limit_bytes));
    }
  }
  if (out.count != 0) return {};
  return fmt::format("--memory names no GPU that tenant {} is granted: see 'bulkhead status'",
                     tenant.name);
}

std::string held_note(const Machine& machine, const std::string& name) {
  for (const DeviceBooks& d : read_tenant(machine.dir, name).devices) {
    if (d.used_bytes <= d.limit_bytes) continue;
    return fmt::format(
        "tenant {} holds {}, more than its limit of {}: it cannot grow until it has given back",
        name, size_text(d.used_bytes), size_text(d.limit_bytes));
  }
  return {};
}

// Every device of the tenant, with the share it is to have.
std::string read_wanted_share(const TenantBooks& tenant, const AskedShare& asked, Wanted& out) {
  for (const DeviceBooks& d : tenant.devices) {
    shm::DeviceSpec& to = out.devices[out.count++];
    std::memcpy(to.uuid, d.uuid.data(), sizeof to.uuid);
    to.compute = d.compute;
    if (asked.has_compute) {
      to.compute.floor_x100 = asked.rules.floor_x100;
      to.compute.ceiling_x100 = asked.rules.ceiling_x100;
    }
    if (asked.has_burst) to.compute.burst_us = asked.rules.burst_us;
    if (asked.has_window) to.compute.window_us = asked.rules.window_us;
    if (!to.compute.limited() && !asked.has_compute) {
      return fmt::format("tenant {} has no share of a GPU's time: give it one with --compute",
                         tenant.name);
    }
  }
  return {};
}

std::string device_text(const Wanted& wanted, const shm::Arithmetic& sums) {
  return "GPU-" + uuid_digits(wanted.devices[sums.device].uuid);
}

std::string not_alone(const Machine& machine, const std::string& name) {
  if (machine.dir.authoritative) {
    return fmt::format("limits come from {}/node: start the daemon to change them",
                       machine.dir.path);
  }
  // relaxed: nothing is read by it
  if (auto shot = shm::snapshot_tenant(machine.dir, name.c_str());
      shot.ok() && shot->region().header.adopted.load(std::memory_order_relaxed) != 0) {
    return fmt::format(
        "tenant {} is the daemon's, which does not run: its limit in {}/node binds, "
        "and a new start sets it again; start the daemon to change it",
        name, machine.dir.path);
  }
  return {};
}

int set_memory_alone(const Machine& machine, const SetOptions& o, const Wanted& wanted) {
  shm::Arithmetic sums;
  const Status s = shm::set_limits(machine.dir, o.name.c_str(), wanted.devices, wanted.count,
                                   o.overcommit, sums, write_limits_guarded);
  if (s.code() == Errc::kTooLarge) {
    return fail(
        kExitProblem,
        fmt::format("{} asked + {} promised to other tenants > {} on {}; lower it, remove a "
                    "tenant ('bulkhead rm'), or use --overcommit",
                    size_text(sums.asked_bytes), size_text(sums.committed_bytes),
                    size_text(sums.total_bytes), device_text(wanted, sums)));
  }
  if (!s.ok()) return fail(kExitProblem, fmt::format("tenant {}: {}", o.name, describe(s)));
  if (const std::string note = held_note(machine, o.name); !note.empty()) warn(note);
  return kExitOk;
}

int set_share_alone(const Machine& machine, const SetOptions& o, const Wanted& wanted) {
  shm::Arithmetic sums;
  const Status s = shm::set_shares(machine.dir, o.name.c_str(), wanted.devices, wanted.count,
                                   o.overcommit, sums, write_limits_guarded);
  if (s.code() == Errc::kTooLarge) {
    char asked[policy::kShareText], committed[policy::kShareText];
    return fail(kExitProblem,
                fmt::format("{} asked + {} promised to other tenants > 100% of the time of {}; "
                            "lower it, remove a tenant ('bulkhead rm'), or use --overcommit",
                            policy::format_share(sums.asked_x100, false, asked),
                            policy::format_share(sums.committed_x100, false, committed),
                            device_text(wanted, sums)));
  }
  return s.ok() ? kExitOk : fail(kExitProblem, fmt::format("tenant {}: {}", o.name, describe(s)));
}

int ask_update(wire::Client& client, const SetOptions& o, wire::UpdateRequest& q) {
  wire::put_text(q.record.name, o.name.c_str());
  q.record.owner_uid = q.record.match_uid = q.record.match_gid = wire::kNoId;
  bool ok = false;
  const std::string text = ask_verdict(client, wire::Kind::kUpdate, q, ok);
  if (!ok) return fail(kExitProblem, text);
  if (!text.empty()) warn(text);
  return kExitOk;
}

wire::DeviceGrant& add_grant(wire::UpdateRequest& q, const shm::DeviceSpec& device) {
  wire::DeviceGrant& g = q.record.devices[q.record.device_count++];
  std::memcpy(g.uuid, device.uuid, wire::kUuidBytes);
  return g;
}

int set_memory_by_daemon(wire::Client& client, const SetOptions& o, const Wanted& wanted) {
  wire::UpdateRequest q{};
  for (unsigned i = 0; i < wanted.count; ++i)
    add_grant(q, wanted.devices[i]).memory_bytes = wanted.devices[i].limit_bytes;
  q.mask = wire::kSetMemory;
  return ask_update(client, o, q);
}

int set_audit_by_daemon(wire::Client& client, const SetOptions& o) {
  wire::UpdateRequest q{};
  q.record.audit_mode = o.audit == "enforce"   ? wire::AuditMode::kEnforce
                        : o.audit == "observe" ? wire::AuditMode::kObserve
                                               : wire::AuditMode::kOff;
  q.mask = wire::kSetAudit;
  return ask_update(client, o, q);
}

int set_share_by_daemon(wire::Client& client, const SetOptions& o, const AskedShare& asked,
                        const Wanted& wanted) {
  wire::UpdateRequest q{};
  for (unsigned i = 0; asked.has_compute && i < wanted.count; ++i)
    put_share(asked, q.record, add_grant(q, wanted.devices[i]));
  put_pace(asked, q.record);
  q.mask = (asked.has_compute ? wire::kSetCompute : 0u) |
           (asked.has_burst || asked.has_window ? wire::kSetPace : 0u) |
           (asked.has_mode ? wire::kSetMode : 0u) | (asked.has_priority ? wire::kSetPriority : 0u);
  return ask_update(client, o, q);
}

}  // namespace

int set(const SetOptions& o) {
  if (!shm::valid_name(o.name.c_str())) {
    return fail(kExitUsage, fmt::format("'{}' is not the name of a tenant", o.name));
  }
  if (o.memory.empty() && o.audit.empty() && !o.share.any())
    return fail(kExitUsage, "set needs what to change: --memory SIZE, --compute SHARE");
  AskedShare share;
  if (const std::string p = read_share(o.share, true, share); !p.empty())
    return fail(kExitUsage, p);
  policy::MemorySpec spec;
  if (!o.memory.empty() &&
      !policy::parse_memory_spec(o.memory.c_str(), policy::Grammar::kOurs, &spec)) {
    return fail(kExitUsage,
                fmt::format("--memory '{}' is not a size: write it like 10GiB, 512m, 10GB or "
                            "50%, GPU=SIZE for one GPU",
                            o.memory));
  }
  disarm_environment();
  auto machine = open_machine(env_or_empty("BULKHEAD_SIM"), Directory::kMayBeMissing);
  if (!machine.ok()) return fail(kExitProblem, machine.problem);
  if (!(*machine)->dir.fd.ok()) {
    return fail(kExitProblem, (*machine)->directory + " does not exist: there are no tenants");
  }
  const TenantBooks tenant = read_tenant((*machine)->dir, o.name);
  if (!tenant.problem.empty()) {
    return fail(kExitProblem, fmt::format("tenant {}: {}", o.name, tenant.problem));
  }
  Wanted memory, shares;
  std::string p = o.memory.empty() ? "" : read_wanted(**machine, tenant, spec, memory);
  const bool has_share = share.has_compute || share.has_burst || share.has_window;
  if (p.empty() && has_share) p = read_wanted_share(tenant, share, shares);
  if (!p.empty()) return fail(kExitProblem, p);
  wire::Client client;
  std::string problem;
  const bool daemon = connect_daemon((*machine)->dir, client, problem) == Daemon::kAnswers;
  if (daemon && o.overcommit) {
    return fail(kExitProblem,
                "with a daemon a tenant is overcommitted when it is made, not by set");
  }
  if (!daemon) p = mode_without_daemon(share.mode);
  if (!daemon && p.empty() && !o.audit.empty())
    p = "audit modes are the daemon's: start bulkheadd with [audit]";
  if (!daemon && p.empty()) p = not_alone(**machine, o.name);
  if (!p.empty()) return fail(kExitProblem, p);
  int code = kExitOk;  // the first that is refused ends it
  if (!o.audit.empty()) code = set_audit_by_daemon(client, o);
  if (code == kExitOk && memory.count != 0) {
    code =
        daemon ? set_memory_by_daemon(client, o, memory) : set_memory_alone(**machine, o, memory);
  }
  if (!daemon && share.has_priority && code == kExitOk) return fail(kExitProblem, kNoGate);
  if (code != kExitOk || (!has_share && !(daemon && (share.has_mode || share.has_priority))))
    return code;
  code = daemon ? set_share_by_daemon(client, o, share, shares)
                : set_share_alone(**machine, o, shares);
  if (code == kExitOk && !daemon && share.wants_idle_time()) warn(kNoLending);
  return code;
}

}  // namespace bulkhead::cli
