#include "cli/doctor.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <gnu/libc-version.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/books.h"
#include "cli/devices.h"
#include "cli/install.h"
#include "cli/launch.h"
#include "cli/machine.h"
#include "cli/remote.h"
#include "cli/request.h"
#include "cli/selftest.h"
#include "cli/timeslice.h"
#include "shm/region.h"

namespace bulkhead::cli {
namespace {

enum class Verdict { kGood, kNote, kBad };

struct Check {
  Verdict verdict;
  std::string what;   // a word or two
  std::string found;  // what is there
  std::string fix;    // empty if there is nothing to do
};

struct Doctor {
  std::vector<Check> checks;
  void good(const std::string& what, const std::string& found) {
    checks.push_back({Verdict::kGood, what, found, {}});
  }
  void note(const std::string& what, const std::string& found, const std::string& fix) {
    checks.push_back({Verdict::kNote, what, found, fix});
  }
  void bad(const std::string& what, const std::string& found, const std::string& fix) {
    checks.push_back({Verdict::kBad, what, found, fix});
  }
};

void check_glibc(Doctor& d) {
  int major = 0;
  int minor = 0;
  const char* version = ::gnu_get_libc_version();
  std::sscanf(version, "%d.%d", &major, &minor);
  if (major > 2 || minor >= 17) {
    d.good("glibc", version);
  } else {
    d.bad("glibc", version, "2.17 or newer is needed");
  }
}

// The dynamic linker only warns about a library it cannot preload: look for it in a real process.
void check_library(Doctor& d) {
  const std::string library = find_library();
  if (library.empty()) {
    return d.bad("library", "libbulkhead.so not found",
                 "install the package, or build it: ../lib beside this program");
  }
  std::string maps;
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return d.bad("library", "no pipe", "close files");
  const UniqueFd from{ends[0]};
  ::fcntl(from.get(), F_SETFL, O_NONBLOCK);
  UniqueFd to{ends[1]};
  const std::string command =
      fmt::format("LD_PRELOAD='{}' exec cat /proc/self/maps >/proc/self/fd/{}", library, to.get());
  const Child child = start({"/bin/sh", "-c", command}, to.get());
  to.reset();
  const int code = child.exec_errno != 0 ? kExitNotFound : wait_for(child, from.get(), &maps);
  if (code == 0 && maps.find("libbulkhead.so") != std::string::npos) {
    d.good("library", library);
  } else {
    d.bad("library", library + " is not loaded by the dynamic linker",
          "run: LD_PRELOAD=" + library + " /bin/true");
  }
}

void check_rivals(Doctor& d) {
  std::string where;
  if (env_or_empty("LD_PRELOAD").find("libvgpu") != std::string::npos) where = "LD_PRELOAD";
  std::ifstream file{"/etc/ld.so.preload"};
  for (std::string line; std::getline(file, line);) {
    if (line.find("libvgpu") != std::string::npos) where = "/etc/ld.so.preload";
  }
  if (where.empty()) {
    d.good("other limiters", "none preloaded");
  } else {
    d.bad("other limiters", "HAMi's libvgpu.so in " + where,
          "remove it there: two libraries cannot both account for the memory");
  }
}

void check_driver(Doctor& d, const Machine& machine) {
  const std::string path =
      (machine.simulator.empty() ? "" : machine.simulator + "/") + "libcuda.so.1";
  void* library = ::dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (library == nullptr) {
    d.bad("libcuda", ::dlerror(),
          "install the NVIDIA driver, or try the simulated one: bulkhead doctor --sim");
  } else {
    using Version = int (*)(int*);
    int version = 0;
    const auto ask = reinterpret_cast<Version>(::dlsym(library, "cuDriverGetVersion"));
    if (ask != nullptr) ask(&version);
    d.good("libcuda", fmt::format("CUDA {}.{}{}", version / 1000, version % 1000 / 10,
                                  machine.simulated ? ", simulated" : ""));
  }
  if (!machine.nvml) {
    return d.note(
        "NVML", machine.nvml_problem,
        "install the driver's libnvidia-ml.so.1: without it modules loaded late are not counted");
  }
  const auto gpus = machine.nvml->gpus();
  if (gpus.empty()) {
    return d.bad("NVML", "driver " + machine.nvml->driver_version() + " shows no GPU",
                 "see 'nvidia-smi' and the kernel log");
  }
  d.good("NVML", fmt::format("driver {}, {} GPU{}: {}", machine.nvml->driver_version(), gpus.size(),
                             gpus.size() == 1 ? "" : "s", gpus[0].name));
}

void check_visible(Doctor& d, const Machine& machine) {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (visible == nullptr) return d.good("visible GPUs", "CUDA_VISIBLE_DEVICES is not set: all");
  if (!machine.nvml) return;
  const auto gpus = machine.nvml->gpus();
  const auto positions = visible_positions(gpus, visible, true);
  if (positions && positions->empty()) {
    return d.bad("visible GPUs", fmt::format("CUDA_VISIBLE_DEVICES='{}' hides every GPU", visible),
                 "name one by index or by UUID ('bulkhead status' lists them)");
  }
  d.good("visible GPUs", fmt::format("CUDA_VISIBLE_DEVICES='{}'", visible));
}

void check_directory(Doctor& d, const Machine& machine) {
  if (!machine.dir.fd.ok()) {
    return d.good("directory", machine.directory + " (made by the first run)");
  }
  if (::faccessat(machine.dir.fd.get(), ".", W_OK, AT_EACCESS) != 0) {
    return d.bad("directory", machine.directory + " cannot be written",
                 "set BULKHEAD_DIR to a directory of your own");
  }
  d.good("directory", machine.directory);
  for (const TenantBooks& t : read_tenants(machine.dir)) {
    if (!t.problem.empty()) {
      d.note("region", fmt::format("tenant {}: {}", t.name, t.problem),
             "remove it: bulkhead rm " + t.name);
    } else if (t.ephemeral && t.processes.empty()) {
      d.note("region", "tenant " + t.name + " has no process",
             "nothing: it goes with its run, else the next run removes it");
    }
  }
}

void check_daemon(Doctor& d, const Machine& machine) {
  switch (machine.dir.fd.ok() ? ask_daemon(machine.dir) : Daemon::kNone) {
    case Daemon::kNone:
      d.good("daemon", "none: limits hold, the dead are reclaimed by their peers");
      break;
    case Daemon::kAnswers:
      d.good("daemon", "answers");
      if (const std::string waits = ask_condition(machine.dir); !waits.empty())
        d.note("configuration", waits, "as it says; 'bulkhead events' has when");
      break;
    case Daemon::kSilent:
      d.note("daemon", "its socket does not answer", "start it, or use run --no-daemon");
      break;
  }
}

void check_calibration(Doctor& d, const Machine& machine) {
  const auto kept = load_calibration(machine.state);
  if (kept.empty()) {
    return d.good("calibration", "none yet: the first run measures, in about half a second");
  }
  const std::string driver = machine.nvml ? machine.nvml->driver_version() : kept[0].driver;
  for (const Calibration& c : kept) {
    if (c.driver != driver) continue;
    d.good("calibration", fmt::format("{} {}: a context takes {}", c.name, c.uuid.substr(0, 12),
                                      size_text(c.facts.context_bytes)));
  }
}

std::string one_finding(const char* what, const gpu::Finding& f) {
  return fmt::format("{} {}{}", what, gpu::seen_text(f.verdict),
                     f.evidence.empty() ? "" : " (" + f.evidence + ")");
}

// What is known of how shares can be held here, with its evidence and its date.
void check_self_tests(Doctor& d, const Machine& machine) {
  if (!machine.nvml) return;
  const auto kept = gpu::load_self_tests(machine.state);
  for (const NvmlGpu& g : machine.nvml->gpus()) {
    const auto at = std::find_if(kept.begin(), kept.end(), [&](const gpu::SelfTest& t) {
      return t.uuid == g.uuid && t.driver == machine.nvml->driver_version();
    });
    const std::string what = fmt::format("GPU {} shares", g.index);
    if (at == kept.end()) {
      d.note(what, "not tested with this driver: held in time only",
             "bulkhead doctor --self-test, while nobody uses the GPU");
      continue;
    }
    d.good(what, fmt::format("{}, {}, {}, {}; tested {}", one_finding("spatial", at->spatial),
                             one_finding("slice", at->slice), one_finding("green", at->green),
                             one_finding("partitions", at->partitions), at->tested));
  }
}

// How long slices are here, which the measuring of long operations leans on.
void check_time_slices(Doctor& d, const Machine& machine) {
  if (!machine.nvml) return;
  const auto kept = gpu::load_time_slices(machine.state);
  for (const NvmlGpu& g : machine.nvml->gpus()) {
    const auto at = std::find_if(kept.begin(), kept.end(), [&](const gpu::TimeSlice& t) {
      return t.uuid == g.uuid && t.driver == machine.nvml->driver_version();
    });
    const std::string what = fmt::format("GPU {} slices", g.index);
    if (at == kept.end() || at->slice_ns == 0) {
      d.note(what,
             at == kept.end() ? "not measured with this driver: taken to be 2 ms, 10 % lost"
                              : "could not be measured: " + at->evidence,
             "bulkhead doctor --self-test, while nobody uses the GPU");
      continue;
    }
    d.good(what, fmt::format("{:.2f} ms, {:.1f} % of the time lost to switching ({}; {})",
                             static_cast<double>(at->slice_ns) / 1e6, at->loss_x1000 / 10.0,
                             at->evidence, at->measured));
  }
}

// Tests, keeps, and lets a daemon read it.
void run_self_test(Doctor& d, const Machine& machine, const DoctorOptions& o) {
  SelfTestOptions options;
  if (!o.mps_control.empty()) options.control = o.mps_control;
  options.mps = !o.no_mps;
  std::vector<gpu::SelfTest> seen;
  std::vector<gpu::TimeSlice> slices;
  std::string problem = self_test(machine, options, seen);
  if (problem.empty()) problem = measure_time_slices(machine, slices);
  if (!problem.empty()) return d.bad("self-test", problem, "as it says");
  wire::Client client;
  std::string silent;
  if (connect_daemon(machine.dir, client, silent) != Daemon::kAnswers)
    return d.good("self-test", "done");
  wire::Empty q{};
  bool ok = false;
  const std::string text = ask_verdict(client, wire::Kind::kReload, q, ok);
  ok ? d.good("self-test", "done, and told to the daemon")
     : d.note("self-test", "done; the daemon did not take it: " + text,
              "systemctl reload bulkheadd");
}

void check_memory_lock(Doctor& d) {
  rlimit limit{};
  ::getrlimit(RLIMIT_MEMLOCK, &limit);
  if (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= sizeof(shm::Region)) {
    return d.good("memory lock",
                  limit.rlim_cur == RLIM_INFINITY ? "unlimited" : size_text(limit.rlim_cur));
  }
  d.note("memory lock", size_text(limit.rlim_cur),
         fmt::format("ulimit -l {}: a region could be paged out under pressure",
                     sizeof(shm::Region) / 1024));
}

void check_mps(Doctor& d) {
  const std::string pipe = env_or_empty("CUDA_MPS_PIPE_DIRECTORY");
  const std::string at = pipe.empty() ? "/tmp/nvidia-mps" : pipe;
  if (::access((at + "/control").c_str(), F_OK) != 0) return d.good("MPS", "not running");
  d.note("MPS", "control daemon in " + at,
         "nothing for memory: quotas hold; a GPU fault of one client ends the others");
}

void print_people(const Doctor& d) {
  for (const Check& c : d.checks) {
    const char* mark = c.verdict == Verdict::kGood   ? "ok  "
                       : c.verdict == Verdict::kNote ? "note"
                                                     : "BAD ";
    fmt::print("{}  {:<15} {}{}{}\n", mark, c.what, c.found, c.fix.empty() ? "" : "; fix: ", c.fix);
  }
}

void print_json(const Doctor& d, bool usable) {
  nlohmann::json checks = nlohmann::json::array();
  for (const Check& c : d.checks) {
    const char* verdict = c.verdict == Verdict::kGood   ? "ok"
                          : c.verdict == Verdict::kNote ? "note"
                                                        : "bad";
    checks.push_back({{"check", c.what}, {"verdict", verdict}, {"found", c.found}, {"fix", c.fix}});
  }
  const nlohmann::json out = {{"schema", 1}, {"usable", usable}, {"checks", checks}};
  fmt::print("{}\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

}  // namespace

int doctor(const DoctorOptions& options) {
  Doctor d;
  disarm_environment();
  auto machine =
      open_machine(options.simulator.empty() ? env_or_empty("BULKHEAD_SIM") : options.simulator,
                   Directory::kMayBeMissing);
  check_glibc(d);
  check_library(d);
  check_rivals(d);
  if (machine.ok()) {
    check_driver(d, **machine);
    check_visible(d, **machine);
    check_directory(d, **machine);
    check_daemon(d, **machine);
    check_calibration(d, **machine);
    if (options.self_test) run_self_test(d, **machine, options);
    check_self_tests(d, **machine);
    check_time_slices(d, **machine);
  } else {
    d.bad("directory", machine.problem, "as it says");
  }
  check_memory_lock(d);
  check_mps(d);
  bool usable = true;
  for (const Check& c : d.checks) usable &= c.verdict != Verdict::kBad;
  options.json ? print_json(d, usable) : print_people(d);
  return usable ? kExitOk : kExitProblem;
}

}  // namespace bulkhead::cli
