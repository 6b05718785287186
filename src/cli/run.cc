#include "cli/run.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>

#include "base/bus_guard.h"
#include "cli/audit_mode.h"
#include "cli/devices.h"
#include "cli/grant_watch.h"
#include "cli/install.h"
#include "cli/launch.h"
#include "cli/like_share.h"
#include "cli/machine.h"
#include "cli/mode.h"
#include "cli/remote.h"
#include "cli/shim.h"
#include "cli/streams.h"
#include "gpu/sampler.h"
#include "policy/compute_spec.h"
#include "policy/limit.h"
#include "shm/node.h"
#include "shm/quota.h"
#include "shm/slots.h"
#include "shm/tenant.h"

namespace bulkhead::cli {
namespace {

using Problem = std::string;  // empty: none
constexpr const char* kNoQuota =
    "run needs a quota: --memory SIZE (10GiB, 50%), --compute SHARE, or --tenant NAME of one that "
    "exists";
constexpr const char* kLikeShare =
    "no --memory: its quota is the part of each GPU's memory that --compute is of its time";

// One `run`: what was asked, what it works on, and the tenant once there is one.
struct Run {
  const RunOptions& options;
  const Request& request;
  Machine& machine;
  shm::Tenant tenant{};
  GuardedRange guard{};  // of the tenant's region: after it, so that it ends before the mapping
  bool ephemeral = false;
  wire::Client daemon{};   // ok(): it answers, and tenants are its to make
  bool by_daemon = false;  // the tenant is one of its
  std::unique_ptr<GrantWatch> grant{};
  int left_queue = 0;  // the exit code if a signal ended the waiting
};

// The region is its owner's to shrink: it is guarded before its first byte is read.
Problem take_tenant(Run& run, shm::Tenant tenant) {
  auto guarded = guard(&tenant.region(), sizeof(shm::Region));
  if (!guarded.ok()) return fmt::format("tenant {}: {}", tenant.name(), describe(guarded.status()));
  run.guard.reset();
  run.tenant = std::move(tenant);
  run.guard = std::move(*guarded);
  return {};
}

Problem region_cut_short(const Run& run) {
  if (!run.guard.faulted()) return {};
  return fmt::format("{}/tenants/{}/region was cut short; 'bulkhead rm {}' removes it",
                     run.machine.dir.path, run.tenant.name(), run.tenant.name());
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

// As attach_or_create(), by the daemon's leave.
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

// An ephemeral tenant, if nothing of it runs on.
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

// The operator's node page has the last word (root's directory only).
Problem check_node(const Run& run) {
  const auto granted = shm::apply_node(run.machine.dir, run.tenant.region(),
                                       run.tenant.device_count(), run.tenant.name());
  if (!granted.ok()) {
    return fmt::format("{}/node: {}", run.machine.dir.path, describe(granted.status()));
  }
  if (*granted != 0) return {};
  return fmt::format("{}/node grants tenant {} no GPU", run.machine.dir.path, run.tenant.name());
}

constexpr const char* kNoVerifier =
    "--grant needs a daemon, which alone verifies grants: start bulkheadd, and leave --no-daemon "
    "out";

std::string grant_file(const Run& run) {
  return run.options.grant_file.empty() ? env_or_empty("BULKHEAD_GRANT_FILE")
                                        : run.options.grant_file;
}

Problem check_daemon(Run& run) {
  const bool root_directory = std::strcmp(run.machine.dir.path, "/run/bulkhead") == 0;
  Problem silent;
  const Daemon daemon =
      run.options.no_daemon ? Daemon::kNone : connect_daemon(run.machine.dir, run.daemon, silent);
  if (daemon == Daemon::kAnswers) return {};
  if (!grant_file(run).empty()) return kNoVerifier;
  if (daemon == Daemon::kSilent && root_directory) {
    return fmt::format(
        "the daemon of /run/bulkhead does not answer ({}): start it, or use --no-daemon", silent);
  }
  if (!run.options.wait_time.empty()) {
    return "--wait needs a daemon that serves the queue: start bulkheadd, or leave it out";
  }
  if (Problem p = mode_without_daemon(run.request.share.mode); !p.empty()) return p;
  const bool goes_on = run.request.has_memory || !run.request.tenant.empty();
  if (goes_on && !run.options.quiet && !run.options.no_daemon) {
    warn("no daemon: limits hold, dead processes are reclaimed by their peers");
  }
  return {};
}

Problem prepare_environment(const Run& run) {
  Problem unsigned_one;
  std::string library = signed_library(run.machine.dir, unsigned_one);
  if (!unsigned_one.empty()) return unsigned_one;
  if (library.empty()) library = find_library();
  if (library.empty()) {
    return "libbulkhead.so is not installed: expected ../lib beside this program or "
           "/usr/lib/bulkhead";
  }
  if (library.find_first_of(" :") != std::string::npos) {
    return library + ": a path with a space or colon cannot be preloaded: install it elsewhere";
  }
  const auto set = [](const char* name, const std::string& value) {
    ::setenv(name, value.c_str(), 1);
  };
  set("LD_PRELOAD", with_entry(std::getenv("LD_PRELOAD"), library, ": "));
  if (!run.machine.simulator.empty()) {
    set("LD_LIBRARY_PATH", with_entry(std::getenv("LD_LIBRARY_PATH"), run.machine.simulator, ":;"));
  }
  set("BULKHEAD_DIR", run.machine.dir.path);
  set("BULKHEAD_TENANT", run.tenant.name());
  if (!run.request.audit.empty()) set("BULKHEAD_AUDIT", run.request.audit);
  if (!run.request.streams.empty()) set("BULKHEAD_STREAM_SMS", run.request.streams);
  set("BULKHEAD_ON_FAULT", run.request.open_on_fault ? "open" : "deny");
  return {};
}

// What the command left behind: its processes end without notice, and none of them tidies up.
void tidy_up(Run& run) {
  if (!run.guard.faulted()) shm::reap_dead(run.tenant.region(), run.tenant.world(), shm::Seat{});
  // Refused while processes of it run on: then it vanishes with the first sweep after the last.
  forget_tenant(run);
  if (!run.by_daemon) (void)shm::sweep_tenants(run.machine.dir);
}

// Before the command starts: a grant that is refused starts nothing.
Problem take_grant(Run& run) {
  const std::string file = grant_file(run);
  if (file.empty()) return {};
  run.grant = std::make_unique<GrantWatch>(run.machine.dir, run.tenant.name(), file);
  if (Problem p = run.grant->begin(); !p.empty()) return "--grant: " + p;
  run.grant->watch();
  return {};
}

int supervise(Run& run) {
  const Child child = start(run.options.command);
  if (child.exec_errno != 0) {
    forget_tenant(run);
    return say_not_started(run.options.command[0], child.exec_errno);
  }
  if (run.machine.nvml) {
    const std::string path =
        fmt::format("{}/tenants/{}/region", run.machine.dir.path, run.tenant.name());
    std::thread([&run, path] {
      gpu::sample(run.tenant.region(), run.tenant.device_count(), *run.machine.nvml, path,
                  run.guard);
      if (run.guard.faulted()) {
        warn(fmt::format("{} was cut short: what the driver takes is no longer sampled", path));
      }
    }).detach();
  }
  const int code = wait_for(child);
  if (run.machine.nvml) gpu::stop_sampling(run.tenant.region());
  tidy_up(run);
  std::fflush(nullptr);
  ::_exit(code);  // the sampler's thread may be inside NVML: no destructors under its feet
}

}  // namespace

int run(const RunOptions& options) {
  block_signals();
  int exit_code = kExitOurs;
  const auto request = read_request(options, &exit_code);
  if (!request.ok()) return fail(exit_code, request.problem);
  if (std::uint64_t ms = 0; !options.wait_time.empty() && !parse_wait(options.wait_time, ms)) {
    return fail(kExitUsage, fmt::format("--wait '{}' is not a time: write it like 90s, 5m or 2h",
                                        options.wait_time));
  }
  disarm_environment();
  auto machine = open_machine(request.value->simulator, Directory::kCreate);
  if (!machine.ok()) return fail(kExitOurs, machine.problem);
  if ((*machine)->simulated && !(*machine)->nvml) {
    return fail(kExitOurs, (*machine)->nvml_problem);
  }
  Request asked = *request.value;
  Run state{options, asked, **machine};
  if (Problem p = check_daemon(state); !p.empty()) return fail(kExitOurs, p);
  const bool daemon = state.daemon.ok();
  if (give_memory_like_share(asked, **machine, state.daemon) && !options.quiet) warn(kLikeShare);
  if (!daemon && !state.request.has_memory && state.request.tenant.empty()) {
    return fail(kExitUsage, kNoQuota);
  }
  if (daemon) {
    Problem p = give_early(state.machine.dir, state.request.tenant, grant_file(state));
    if (!p.empty()) return fail(kExitOurs, p);
  }
  if (Problem p = daemon ? enrol_with_daemon(state) : attach_or_create(state); !p.empty()) {
    if (state.left_queue != 0) return fail(state.left_queue, p);
    const Problem cut = region_cut_short(state);
    return fail(kExitOurs, cut.empty() ? p : cut);
  }
  Problem p = check_node(state);
  if (Problem cut = region_cut_short(state); !cut.empty()) p = std::move(cut);
  if (p.empty()) p = take_grant(state);
  if (p.empty()) p = audit_problem(state.machine.dir, state.tenant.name(), state.request.audit);
  if (p.empty() && !asked.streams.empty())
    p = streams_problem(state.machine, state.tenant.name(), asked.streams);
  if (p.empty()) p = prepare_environment(state);
  if (p.empty() && state.by_daemon) {
    if (const std::string note = enter_mode(**machine, state.tenant.name());
        !note.empty() && !options.quiet)
      warn(note);
  }
  if (!p.empty()) {
    forget_tenant(state);
    return fail(kExitOurs, p);
  }
  if (!daemon && state.request.share.wants_idle_time() && !options.quiet) warn(kNoLending);
  if (state.request.share.priority == wire::Priority::kLatency && !state.by_daemon &&
      !options.quiet)
    warn(kNoGate);
  return supervise(state);
}

}  // namespace bulkhead::cli
