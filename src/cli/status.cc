#include "cli/status.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "cli/ask.h"
#include "cli/books.h"
#include "cli/install.h"
#include "cli/machine.h"
#include "cli/mode.h"
#include "cli/partition.h"
#include "cli/remote.h"
#include "cli/request.h"
#include "cli/share.h"
#include "cli/status_audit.h"
#include "policy/size.h"
#include "wire/lines.h"

namespace bulkhead::cli {
namespace {

using nlohmann::json;

struct Picture {
  const Machine& machine;
  std::vector<NvmlGpu> gpus;
  std::vector<TenantBooks> tenants;
  std::optional<std::vector<wire::StrayView>> strays;  // nullopt: no daemon told us
  std::map<std::pair<std::string, Uuid>, std::uint32_t> delivered_x100;
  std::map<std::string, bool> latency;
  std::map<Uuid, std::uint32_t> gate_bound_us;
  std::map<Uuid, wire::NodeDevice> devices;  // as the daemon tells them
  std::map<std::string, TenantMode> modes;
  std::optional<wire::AuditReply> audit;
  std::string condition;  // of its configuration; "": all in force
};

// "0" as NVML counts, else the UUID's first digits.
std::string gpu_label(const Picture& p, const Uuid& uuid) {
  for (const NvmlGpu& g : p.gpus) {
    if (parse_uuid(g.uuid) == uuid) return std::to_string(g.index);
  }
  return uuid_digits(uuid.data()).substr(0, 3);
}

struct Promise {
  std::uint64_t bytes = 0;
  std::uint64_t of_bytes = 0;  // what the driver says can be had; 0: no tenant on it
};
Promise promised(const Picture& p, const std::string& uuid) {
  Promise out;
  const auto wanted = parse_uuid(uuid);
  for (const TenantBooks& t : p.tenants) {
    for (const DeviceBooks& d : t.devices) {
      if (wanted != d.uuid) continue;
      out.bytes += d.limit_bytes;
      out.of_bytes = d.total_bytes;
    }
  }
  return out;
}

std::string cut(const std::string& text, std::size_t width) {
  return text.size() <= width ? text : text.substr(0, width - 2) + "..";
}

// What self-tests saw of a GPU; null: no daemon told.
const wire::NodeDevice* told_of(const Picture& p, const std::string& gpu) {
  const auto uuid = parse_uuid(gpu);
  const auto at = uuid ? p.devices.find(*uuid) : p.devices.end();
  return at == p.devices.end() ? nullptr : &at->second;
}

// ---- for people: 80 columns ---------------------------------------------------------------------
void print_gpus(const Picture& p) {
  for (const NvmlGpu& g : p.gpus) {
    const Promise promise = promised(p, g.uuid);
    std::string share;
    if (promise.of_bytes != 0) {
      share = fmt::format(" ({:.0f} %)", 100.0 * static_cast<double>(promise.bytes) /
                                             static_cast<double>(promise.of_bytes));
    }
    fmt::print("GPU {:<3} {:<24} {:>11}   in use {:>11}\n        {}   promised {}{}\n", g.index,
               cut(g.name, 24), short_size(g.total_bytes), short_size(g.used_bytes), g.uuid,
               short_size(promise.bytes), share);
    if (const wire::NodeDevice* told = told_of(p, g.uuid)) {
      if (const std::string seen = seen_text(*told); !seen.empty())
        fmt::print("        self-tests: {}\n", seen);
    }
  }
  if (!p.gpus.empty()) fmt::print("\n");
}

// Its pid here, that inside if it is in a pid namespace of its own, its command.
std::string who(const ProcessBooks& process) {
  const std::string command = command_of(process);
  if (process.our_namespace) return fmt::format("{} {}", process.pid, command);
  if (process.pid_here == 0) return fmt::format("{} (elsewhere)", process.pid);
  return fmt::format("{} ({} inside) {}", process.pid_here, process.pid, command);
}

void print_process(const ProcessBooks& process, const TenantBooks& tenant) {
  for (std::size_t d = 0; d < tenant.devices.size(); ++d) {
    if (process.held_bytes[d] == 0 && d != 0) continue;
    fmt::print("{:<33}{:>11}{:>22}{}\n", cut("  " + who(process), 32),
               short_size(process.held_bytes[d]), short_size(process.other_bytes[d]),
               process.dead ? "  dead" : "");
  }
}

bool has_priority(const Picture& p, const TenantBooks& t) {
  const auto at = p.latency.find(t.name);
  return at != p.latency.end() && at->second;
}
// 0: no latency tenant there, or nothing measured yet.
std::uint32_t gate_bound_us(const Picture& p, const Uuid& uuid) {
  const auto at = p.gate_bound_us.find(uuid);
  return at == p.gate_bound_us.end() ? 0 : at->second;
}
void print_gate(const Picture& p, const TenantBooks& t, const DeviceBooks& d) {
  if (has_priority(p, t)) {
    const std::uint32_t bound = gate_bound_us(p, d.uuid);
    fmt::print("  goes first on GPU {}: {}\n", gpu_label(p, d.uuid),
               bound == 0 ? "no batch work was measured there yet"
                          : fmt::format("waits for batch work {:.2f} ms at most", bound / 1e3));
  } else if (d.time.gates != 0) {
    fmt::print("  held {:.1f} s for latency tenants on GPU {}\n",
               static_cast<double>(d.time.gated_ns) / 1e9, gpu_label(p, d.uuid));
  }
}

// What a daemon says it had in the last second; kUnknownShare: none says.
std::uint32_t delivered(const Picture& p, const TenantBooks& t, const Uuid& uuid) {
  const auto at = p.delivered_x100.find({t.name, uuid});
  return at == p.delivered_x100.end() ? wire::kUnknownShare : at->second;
}

// ", spatial (asked auto)"; "" where time is held, and was asked for or nobody asked.
std::string mode_note(const Picture& p, const TenantBooks& t) {
  const auto at = p.modes.find(t.name);
  if (at == p.modes.end()) return {};
  const char* const in_force = enforcer_text(at->second.enforcer);
  const std::string asked = mode_text(at->second.asked);
  if (at->second.enforcer == 0 && (asked == "auto" || asked == in_force)) return {};
  return fmt::format(", {}{}", in_force, asked == in_force ? "" : " (asked " + asked + ")");
}

void print_streams(const Picture& p, const DeviceBooks& d) {
  if (d.time.streams_placed + d.time.streams_left == 0) return;
  fmt::print("  streams of GPU {} on multiprocessors of their own: {}, {} as ever\n",
             gpu_label(p, d.uuid), d.time.streams_placed, d.time.streams_left);
}

void print_time(const Picture& p, const TenantBooks& t, const DeviceBooks& d) {
  const std::uint32_t had = delivered(p, t, d.uuid);
  fmt::print("  share of GPU {}: {}{}{}\n  {}\n", gpu_label(p, d.uuid), share_text(d.compute),
             mode_note(p, t),
             had == wire::kUnknownShare ? "" : fmt::format(", had {:.0f} %", had / 100.0),
             cut(sums_text(d.time), 78));
}

void print_tenant(const Picture& p, const TenantBooks& t) {
  if (!t.problem.empty()) return;
  std::size_t live = 0;
  for (const ProcessBooks& process : t.processes) live += process.dead ? 0 : 1;
  for (std::size_t d = 0; d < t.devices.size(); ++d) {
    const DeviceBooks& device = t.devices[d];
    fmt::print("{:<18}{:>4}{:>11}{:>11}{:>11}{:>11}{:>6}{:>8}\n",
               d == 0 ? cut(t.name, 18) : std::string{}, gpu_label(p, device.uuid),
               short_size(device.limit_bytes), short_size(device.used_bytes),
               short_size(device.free_bytes()), short_size(device.other_bytes),
               d == 0 ? std::to_string(live) : "", d == 0 ? std::to_string(t.refused) : "");
  }
  if (const std::string has = partition_text(p.machine, t.name); !has.empty())
    fmt::print("  partition: {}\n", has);
  for (const DeviceBooks& device : t.devices) {
    if (device.compute.limited()) print_time(p, t, device);
    print_gate(p, t, device);
    print_streams(p, device);
  }
  for (const ProcessBooks& process : t.processes) print_process(process, t);
}

// Groups whose tenants are in MPS together: what ends one may end all.
using Domains = std::map<std::pair<std::string, std::uint32_t>, std::vector<const char*>>;
Domains domains_of(const Picture& p,
                   std::map<std::pair<std::string, std::uint32_t>, std::uint32_t>& states) {
  Domains out;
  for (const auto& [name, m] : p.modes) {
    if (m.mps_state == 0 || m.mps_group.empty()) continue;
    out[{m.mps_group, m.owner_uid}].push_back(name.c_str());
    // a tenant that was refused its partition: its group serves all the same
    states[{m.mps_group, m.owner_uid}] = m.mps_state == 4 ? 1 : m.mps_state;
  }
  return out;
}

void print_domains(const Picture& p) {
  std::map<std::pair<std::string, std::uint32_t>, std::uint32_t> states;
  for (const auto& [key, tenants] : domains_of(p, states)) {
    std::string names;
    for (const char* name : tenants) names += (names.empty() ? "" : ", ") + std::string{name};
    fmt::print("\nMPS group {} (uid {}), {}: one failure domain: {}\n", key.first, key.second,
               mps_text(states[key]), names);
  }
}

// Who is on a device around the library, as the daemon's sentinel saw it.
void print_strays(const Picture& p) {
  if (!p.strays || p.strays->empty()) return;
  fmt::print("\nNOT EXPLAINED BY ANY TENANT'S BOOKS (bulkhead events says more)\n");
  for (const wire::StrayView& s : *p.strays) {
    Uuid uuid;
    std::copy_n(s.uuid, uuid.size(), uuid.begin());
    const std::string command = wire::clean_text(wire::text_of(s.command, sizeof s.command), 16);
    const std::string who = fmt::format("{} {} (uid {})", s.pid, command, s.uid);
    if (s.kind == wire::StrayKind::kHoldsNode) {
      fmt::print("  bypass? {:<36} holds a device node open\n", cut(who, 36));
    } else if (s.kind == wire::StrayKind::kDrift) {
      fmt::print("  drift   {:<36} GPU {:<3} {:>11} more than {}\n", cut(who, 36),
                 gpu_label(p, uuid), short_size(s.bytes),
                 cut(wire::clean_text(wire::text_of(s.tenant, sizeof s.tenant), 63), 7));
    } else {
      fmt::print("  bypass  {:<36} GPU {:<3} {:>11}\n", cut(who, 36), gpu_label(p, uuid),
                 short_size(s.bytes));
    }
  }
}

void print_people(const Picture& p) {
  if (p.machine.simulated) fmt::print("simulated driver\n");
  print_gpus(p);
  if (p.tenants.empty()) {
    fmt::print("No tenants in {}. Start one: bulkhead run --memory 10GiB -- COMMAND\n",
               p.machine.directory);
  } else {
    fmt::print("{:<18}{:>4}{:>11}{:>11}{:>11}{:>11}{:>6}{:>8}\n", "TENANT", "GPU", "LIMIT", "USED",
               "FREE", "OTHER", "PROCS", "REFUSED");
    for (const TenantBooks& t : p.tenants) print_tenant(p, t);
  }
  print_domains(p);
  print_strays(p);
  print_audit(p.audit);
  if (!p.condition.empty()) fmt::print("\nNOT IN FORCE: {}\n", p.condition);
  if (!p.machine.nvml) {
    fmt::print("\nNo NVML: GPUs are not listed and memory beyond the books is not sampled.\n");
  }
}

// ---- for programs -------------------------------------------------------------------------------
// null: no latency tenant there, or nothing measured yet.
json gate_json(const Picture& p, const std::string& gpu) {
  const auto uuid = parse_uuid(gpu);
  const std::uint32_t bound = uuid ? gate_bound_us(p, *uuid) : 0;
  return bound == 0 ? json(nullptr) : json(bound);
}

// null: no daemon told.
json self_tests_json(const wire::NodeDevice* device) {
  if (device == nullptr) return nullptr;
  json out = json::object();
  for (unsigned i = 0; i < wire::kSelfTests; ++i)
    out[wire::self_test_name(i)] = wire::seen_name(wire::seen_of(*device, i));
  return out;
}

json gpus_json(const Picture& p) {
  json out = json::array();
  for (const NvmlGpu& g : p.gpus) {
    out.push_back({{"index", g.index},
                   {"uuid", g.uuid},
                   {"name", g.name},
                   {"mig", g.mig},
                   {"total_bytes", g.total_bytes},
                   {"used_bytes", g.used_bytes},
                   {"promised_bytes", promised(p, g.uuid).bytes},
                   {"gate_bound_us", gate_json(p, g.uuid)},
                   {"self_tests", self_tests_json(told_of(p, g.uuid))}});
  }
  return out;
}

// null: no limit.
json time_json(const Picture& p, const TenantBooks& t, const DeviceBooks& d) {
  if (!d.compute.limited()) return nullptr;
  const std::uint32_t had = delivered(p, t, d.uuid);
  return {{"share_percent", d.compute.floor_x100 / 100.0},
          {"ceiling_percent", d.compute.ceiling_x100 / 100.0},
          {"delivered_percent", had == wire::kUnknownShare ? json(nullptr) : json(had / 100.0)},
          {"burst_us", d.compute.burst_us},
          {"window_us", d.compute.window_us},
          {"dampening", d.compute.dampening_x1000 / 1000.0},
          {"rate_percent", d.time.rate_x100 / 100.0},
          {"used_ns", d.time.used_ns},
          {"held_ns", d.time.held_ns},
          {"borrowed_ns", d.time.borrowed_ns},
          {"forgiven_ns", d.time.forgiven_ns},
          {"launches", d.time.launches},
          {"copied_bytes", d.time.copied_bytes}};
}

json counted_json(const shm::ComputeSums& s) {
  return {{"moved_bytes",
           {{"to_device", s.moved_bytes[0]},
            {"to_host", s.moved_bytes[1]},
            {"within", s.moved_bytes[2]},
            {"peer", s.moved_bytes[3]},
            {"set", s.moved_bytes[4]}}},
          {"copy_held_ns", s.copy_held_ns},
          {"stream_ops",
           {{"compute", s.stream_ops[0]},
            {"copy", s.stream_ops[1]},
            {"collective", s.stream_ops[2]},
            {"capturing", s.stream_ops[3]}}},
          {"gated_ns", s.gated_ns},
          {"gates", s.gates},
          {"longest_op_ns", s.longest_op_ns}};
}

json tenant_json(const Picture& picture, const TenantBooks& t) {
  json devices = json::array();
  json processes = json::array();
  for (const DeviceBooks& d : t.devices) {
    devices.push_back(
        {{"uuid", uuid_digits(d.uuid.data())},
         {"total_bytes", d.total_bytes},
         {"limit_bytes", d.limit_bytes},
         {"used_bytes", d.used_bytes},
         {"free_bytes", d.free_bytes()},
         {"other_bytes", d.other_bytes},
         {"dead_bytes", d.dead_bytes},
         {"context_bytes", d.context_bytes},
         {"counted", counted_json(d.time)},
         {"streams", {{"placed", d.time.streams_placed}, {"left", d.time.streams_left}}},
         {"time", time_json(picture, t, d)}});
  }
  for (const ProcessBooks& p : t.processes) {
    processes.push_back({{"pid", p.pid},
                         {"pid_here", p.pid_here != 0 ? json(p.pid_here) : json{}},
                         {"our_namespace", p.our_namespace},
                         {"dead", p.dead},
                         {"command", command_of(p)},
                         {"heartbeat_s", p.heartbeat_s},
                         {"refused", p.refused},
                         {"used_bytes", p.held_bytes},
                         {"other_bytes", p.other_bytes}});
  }
  const auto known = picture.latency.find(t.name);
  const auto mode = picture.modes.find(t.name);
  const bool told = mode != picture.modes.end();  // by a daemon
  return {{"name", t.name},
          {"priority", known == picture.latency.end() ? json(nullptr)
                       : known->second                ? json("latency")
                                                      : json("batch")},
          {"mode", told ? json(mode_text(mode->second.asked)) : json{}},
          {"enforcer", told ? json(enforcer_text(mode->second.enforcer)) : json{}},
          {"mps_group",
           told && !mode->second.mps_group.empty() ? json(mode->second.mps_group) : json{}},
          {"partition", partition_json(picture.machine, t.name)},
          {"ephemeral", t.ephemeral},
          {"overcommitted", t.overcommitted},
          {"on_fault", t.open_on_fault ? "open" : "deny"},
          {"sampler_beat_s", t.sampler_beat_s},
          {"allocs", t.allocs},
          {"frees", t.frees},
          {"refused", t.refused},
          {"faults", t.faults},
          {"uncovered", t.uncovered},
          {"devices", devices},
          {"processes", processes}};
}

json domains_json(const Picture& p) {
  json out = json::array();
  std::map<std::pair<std::string, std::uint32_t>, std::uint32_t> states;
  for (const auto& [key, tenants] : domains_of(p, states)) {
    out.push_back({{"group", key.first},
                   {"uid", key.second},
                   {"state", mps_text(states[key])},
                   {"tenants", tenants}});
  }
  return out;
}

json strays_json(const Picture& p) {
  if (!p.strays) return nullptr;
  json out = json::array();
  for (const wire::StrayView& s : *p.strays) {
    const char* kind = s.kind == wire::StrayKind::kDrift       ? "drift"
                       : s.kind == wire::StrayKind::kHoldsNode ? "holds-node"
                                                               : "unregistered";
    out.push_back({{"kind", kind},
                   {"pid", s.pid},
                   {"uid", s.uid},
                   {"command", wire::text_of(s.command, sizeof s.command)},
                   {"uuid", uuid_digits(s.uuid)},
                   {"bytes", s.bytes},
                   {"sightings", s.sightings},
                   {"tenant", wire::text_of(s.tenant, sizeof s.tenant)}});
  }
  return out;
}

const char* daemon_text(const Machine& machine) {
  if (!machine.dir.fd.ok()) return "none";
  switch (ask_daemon(machine.dir)) {
    case Daemon::kAnswers:
      return "answers";
    case Daemon::kSilent:
      return "silent";
    default:
      return "none";
  }
}

void print_json(const Picture& p) {
  json tenants = json::array();
  json problems = json::array();
  for (const TenantBooks& t : p.tenants) {
    if (t.problem.empty()) {
      tenants.push_back(tenant_json(p, t));
    } else {
      problems.push_back({{"tenant", t.name}, {"problem", t.problem}});
    }
  }
  const json out = {{"schema", 1},
                    {"directory", p.machine.directory},
                    {"simulated", p.machine.simulated},
                    {"daemon", daemon_text(p.machine)},
                    {"nvml", p.machine.nvml.has_value()},
                    {"audit", audit_json(p.audit)},
                    {"driver", p.machine.nvml ? p.machine.nvml->driver_version() : ""},
                    {"boottime_s", boottime_ns() / 1'000'000'000},
                    {"gpus", gpus_json(p)},
                    {"tenants", tenants},
                    {"mps_groups", domains_json(p)},
                    {"strays", strays_json(p)},
                    {"condition", p.condition},
                    {"problems", problems}};
  fmt::print("{}\n", out.dump(2, ' ', false, json::error_handler_t::replace));
}

}  // namespace

int status(const StatusOptions& options) {
  disarm_environment();
  auto machine =
      open_machine(options.simulator.empty() ? env_or_empty("BULKHEAD_SIM") : options.simulator,
                   Directory::kMayBeMissing);
  if (!machine.ok()) return fail(kExitProblem, machine.problem);
  Picture picture{**machine, {}, {}, {}, {}, {}, {}, {}, {}, {}};
  if (auto said = ask_list(**machine)) {
    picture.strays = std::move(said->strays);
    picture.delivered_x100 = std::move(said->delivered_x100);
    picture.latency = std::move(said->latency);
    picture.gate_bound_us = std::move(said->gate_bound_us);
    picture.devices = std::move(said->devices);
    picture.modes = std::move(said->modes);
    // whoever is told of strays is told of this too; a daemon that is silent is not waited for twice
    picture.condition = ask_condition(picture.machine.dir);
    picture.audit = ask_audit(picture.machine);
  }
  if (picture.machine.nvml) picture.gpus = picture.machine.nvml->gpus();
  if (picture.machine.dir.fd.ok()) picture.tenants = read_tenants(picture.machine.dir);
  options.json ? print_json(picture) : print_people(picture);
  std::fflush(stdout);
  int code = kExitOk;
  if (picture.machine.simulated && !picture.machine.nvml) {
    code = fail(kExitProblem, picture.machine.nvml_problem);
  }
  for (const TenantBooks& t : picture.tenants) {
    if (t.problem.empty()) continue;
    code = fail(kExitProblem, fmt::format("{}/tenants/{}/region: {}; 'bulkhead rm {}' removes it",
                                          picture.machine.directory, t.name, t.problem, t.name));
  }
  return code;
}

}  // namespace bulkhead::cli
