#include "cli/run.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>

#include "cli/audit_mode.h"
#include "cli/grant_watch.h"
#include "cli/install.h"
#include "cli/launch.h"
#include "cli/like_share.h"
#include "cli/machine.h"
#include "cli/mode.h"
#include "cli/partition.h"
#include "cli/remote.h"
#include "cli/run_tenant.h"
#include "cli/shim.h"
#include "cli/streams.h"
#include "gpu/sampler.h"
#include "shm/node.h"
#include "shm/quota.h"
#include "shm/slots.h"

namespace bulkhead::cli {
namespace {

constexpr const char* kLikeShare =
    "no --memory: its quota is the part of each GPU's memory that --compute is of its time";

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
    std::string held;
    p = enter_partition(**machine, state.tenant.name(), held);
    if (!held.empty() && !options.quiet) warn(held);
  }
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
