#include "cli/set.h"

#include <fmt/format.h>

#include <cstring>

#include "cli/books.h"
#include "cli/guarded_limits.h"
#include "cli/install.h"
#include "cli/machine.h"
#include "cli/remote.h"
#include "cli/request.h"
#include "cli/say.h"
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

int set_alone(const Machine& machine, const SetOptions& o, const Wanted& wanted) {
  if (machine.dir.authoritative) {
    return fail(
        kExitProblem,
        fmt::format("limits come from {}/node: start the daemon to change them", machine.dir.path));
  }
  // relaxed: nothing is read by it
  if (auto shot = shm::snapshot_tenant(machine.dir, o.name.c_str());
      shot.ok() && shot->region().header.adopted.load(std::memory_order_relaxed) != 0) {
    return fail(kExitProblem,
                fmt::format("tenant {} is the daemon's, which does not run: its limit in {}/node "
                            "binds, and a new start sets it again; start the daemon to change it",
                            o.name, machine.dir.path));
  }
  shm::Arithmetic sums;
  const Status s = shm::set_limits(machine.dir, o.name.c_str(), wanted.devices, wanted.count,
                                   o.overcommit, sums, write_limits_guarded);
  if (s.code() == Errc::kTooLarge) {
    return fail(
        kExitProblem,
        fmt::format("{} asked + {} promised to other tenants > {} on GPU-{}; lower it, remove a "
                    "tenant ('bulkhead rm'), or use --overcommit",
                    size_text(sums.asked_bytes), size_text(sums.committed_bytes),
                    size_text(sums.total_bytes), uuid_digits(wanted.devices[sums.device].uuid)));
  }
  if (!s.ok()) return fail(kExitProblem, fmt::format("tenant {}: {}", o.name, describe(s)));
  if (const std::string note = held_note(machine, o.name); !note.empty()) warn(note);
  return kExitOk;
}

int set_by_daemon(wire::Client& client, const SetOptions& o, const Wanted& wanted) {
  wire::UpdateRequest q{};
  wire::put_text(q.record.name, o.name.c_str());
  q.record.owner_uid = q.record.match_uid = q.record.match_gid = wire::kNoId;
  q.record.device_count = wanted.count;
  for (unsigned i = 0; i < wanted.count; ++i) {
    std::memcpy(q.record.devices[i].uuid, wanted.devices[i].uuid, wire::kUuidBytes);
    q.record.devices[i].memory_bytes = wanted.devices[i].limit_bytes;
  }
  q.mask = wire::kSetMemory;
  bool ok = false;
  const std::string text = ask_verdict(client, wire::Kind::kUpdate, q, ok);
  if (!ok) return fail(kExitProblem, text);
  if (!text.empty()) warn(text);
  return kExitOk;
}

}  // namespace

int set(const SetOptions& o) {
  if (!shm::valid_name(o.name.c_str())) {
    return fail(kExitUsage, fmt::format("'{}' is not the name of a tenant", o.name));
  }
  policy::MemorySpec spec;
  if (!policy::parse_memory_spec(o.memory.c_str(), policy::Grammar::kOurs, &spec)) {
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
  Wanted wanted;
  if (const std::string p = read_wanted(**machine, tenant, spec, wanted); !p.empty()) {
    return fail(kExitProblem, p);
  }
  wire::Client client;
  std::string problem;
  switch (connect_daemon((*machine)->dir, client, problem)) {
    case Daemon::kAnswers:
      if (o.overcommit) {
        return fail(kExitProblem,
                    "with a daemon a tenant is overcommitted when it is made, not by set");
      }
      return set_by_daemon(client, o, wanted);
    case Daemon::kSilent:
    case Daemon::kNone:
      break;
  }
  return set_alone(**machine, o, wanted);
}

}  // namespace bulkhead::cli
