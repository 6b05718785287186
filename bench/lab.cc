#include "bench/lab.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/clock.h"
#include "bench/crew.h"

extern char** environ;

namespace bulkhead::bench {
namespace fs = std::filesystem;
namespace {

// Variables that would change what is measured; each variant sets its own.
bool ours(const char* entry) {
  for (const char* prefix : {"BULKHEAD_", "LD_PRELOAD=", "CUDA_DEVICE_MEMORY_",
                             "CUDA_REDIRECT=", "CUDA_DEVICE_SM_", "LIBCUDA_LOG_LEVEL="})
    if (std::strncmp(entry, prefix, std::strlen(prefix)) == 0) return true;
  return false;
}

unsigned share_of(const Tenant& t) { return t.compute_percent == 0 ? 100 : t.compute_percent; }

std::string replaced(std::string text, const Variant& v, const Tenant& t) {
  const std::pair<const char*, std::string> marks[] = {{"%l", v.library},
                                                       {"%b", std::to_string(t.quota_bytes)},
                                                       {"%M", std::to_string(t.quota_bytes >> 20)},
                                                       {"%c", std::to_string(share_of(t))},
                                                       {"%d", t.dir},
                                                       {"%t", t.name}};
  for (const auto& [mark, value] : marks)
    for (std::size_t at = 0; (at = text.find(mark, at)) != std::string::npos; at += value.size())
      text.replace(at, 2, value);
  return text;
}

unsigned tenants_made = 0;

// build/<preset>/bin/bulkhead-bench has its parts around it; PREFIX/lib/bulkhead/bulkhead-bench lies beside the library.
void find_parts(Lab& lab) {
  const fs::path dir = fs::path(lab.exe).parent_path(), above = dir.parent_path();
  const bool installed = fs::exists(dir / "libbulkhead.so");
  const fs::path prefix = above.parent_path();
  lab.build = above.string();
  lab.cli = (installed ? prefix / "bin" : dir) / "bulkhead";
  lab.daemon = (installed ? prefix / "sbin" : dir) / "bulkheadd";
  lab.library = (installed ? dir : above / "lib") / "libbulkhead.so";
  lab.simulator = (installed ? dir : above) / "sim";
  lab.stub = (installed ? dir : above) / "stub";
}

// Asks the driver in a worker of its own: a driver opened in this process would keep a context of ours alive.
bool probe(Lab& lab) {
  const Variant native{Variant::Kind::kNative, "native", "", {}, ""};
  Crew crew(lab, native, Tenant{"probe", lab.scratch, 0}, "env");
  Params p;
  p.set("info", 1);
  crew.start("probe", p);
  if (!crew.finish(60)) return false;
  const Block& b = crew.block(0);
  lab.device_bytes = static_cast<std::uint64_t>(b.value[0]);
  const unsigned version = static_cast<unsigned>(b.value[1]);
  lab.device = reinterpret_cast<const char*>(b.log);
  lab.driver = (lab.sim.empty() ? "CUDA " : "simulated, CUDA ") + std::to_string(version / 1000) +
               "." + std::to_string(version % 1000 / 10);
  return true;
}

}  // namespace

bool Lab::late() const { return monotonic_ns() > deadline_ns; }

Tenant Lab::make_tenant(std::uint64_t quota_bytes) const {
  Tenant t;
  t.name = "bench-" + std::to_string(::getpid()) + "-" + std::to_string(++tenants_made);
  t.dir = scratch + "/" + t.name;
  t.quota_bytes = quota_bytes >> 20 << 20;
  fs::create_directory(t.dir);
  return t;
}

void Lab::drop_tenant(const Tenant& t) const {
  std::error_code ignored;
  fs::remove_all(scratch + "/tenants/" + t.name, ignored);
  fs::remove_all(t.dir, ignored);
}

std::vector<std::string> Lab::command(const Variant& v, const Tenant& t, const std::string& work,
                                      const Params& p, const std::string& how) const {
  std::vector<std::string> c;
  if (v.kind == Variant::Kind::kBulkhead && how == "run") {
    c = {cli,
         "run",
         "-q",
         "--tenant",
         t.name,
         "--memory",
         std::to_string(t.quota_bytes >> 20) + "MiB"};
    if (t.compute_percent != 0)
      c.insert(c.end(),
               {"--compute", std::to_string(t.compute_percent) + (t.compute_borrows ? "%+" : "%")});
    if (t.latency) c.insert(c.end(), {"--priority", "latency"});
    c.emplace_back("--");
  }
  c.insert(c.end(), {exe, "--worker", work});
  for (const auto& [key, value] : p.all()) c.push_back(std::string{key}.append("=").append(value));
  return c;
}

bool Lab::asked(const std::string& name) const {
  for (std::size_t at = 0; at <= only.size();) {
    const std::size_t bar = std::min(only.find('|', at), only.size());
    if (name.find(only.substr(at, bar - at)) != std::string::npos) return true;
    at = bar + 1;
  }
  return false;
}

std::vector<std::string> Lab::environment(const Variant& v, const Tenant& t,
                                          const std::string& how) const {
  std::vector<std::string> e;
  std::string path;
  for (char** at = environ; *at != nullptr; ++at) {
    if (std::strncmp(*at, "LD_LIBRARY_PATH=", 16) == 0)
      path = *at + 16;
    else if (!ours(*at))
      e.emplace_back(*at);
  }
  if (!sim.empty()) {
    path = path.empty() ? sim : sim + ":" + path;
    e.push_back("BULKHEAD_SIM=" + sim_profile);
    if (timed) e.emplace_back("BULKHEAD_SIM_TIMED=1");
  }
  if (!path.empty()) e.push_back("LD_LIBRARY_PATH=" + path);
  e.push_back("BULKHEAD_DIR=" + scratch);
  e.push_back("XDG_STATE_HOME=" + scratch + "/state");
  if (v.kind == Variant::Kind::kNative) return e;
  if (v.kind == Variant::Kind::kBulkhead && how == "run") return e;
  e.push_back("LD_PRELOAD=" + v.library);
  if (v.kind == Variant::Kind::kBulkhead) {
    e.push_back("BULKHEAD_TENANT=" + t.name);
    e.push_back("BULKHEAD_MEMORY=" + std::to_string(t.quota_bytes >> 20) + "MiB");
  }
  for (const std::string& entry : v.env) e.push_back(replaced(entry, v, t));
  return e;
}

bool open_scratch(Lab& lab) {
  lab.exe = fs::read_symlink("/proc/self/exe").string();
  find_parts(lab);
  std::string pattern =
      (fs::is_directory("/dev/shm") ? "/dev/shm" : fs::temp_directory_path().string()) +
      std::string("/bulkhead-bench-XXXXXX");
  if (::mkdtemp(pattern.data()) == nullptr) {
    std::fprintf(stderr, "bulkhead-bench: cannot make a directory like %s\n", pattern.c_str());
    return false;
  }
  lab.scratch = pattern;
  fs::create_directory(lab.scratch + "/state");
  return true;
}

bool open_lab(Lab& lab, const std::string& sim) {
  if (!open_scratch(lab)) return false;
  if (sim.empty() && probe(lab)) {
    std::fprintf(stderr, "bulkhead-bench: driver of this machine, %s\n", lab.device.c_str());
    return true;
  }
  if (!fs::exists(lab.simulator + "/libcuda.so.1")) {
    std::fprintf(stderr, "bulkhead-bench: no usable GPU here and no simulator in %s\n",
                 lab.simulator.c_str());
    return false;
  }
  lab.sim = lab.simulator;
  lab.sim_profile = sim.empty() ? "h200x1" : sim;
  // The bench's own view (NVML) must be of the same simulated machine.
  ::setenv("BULKHEAD_SIM", lab.sim_profile.c_str(), 1);
  ::setenv("BULKHEAD_DIR", lab.scratch.c_str(), 1);
  if (!probe(lab)) {
    std::fprintf(stderr, "bulkhead-bench: the simulator does not start\n");
    return false;
  }
  std::fprintf(stderr, "bulkhead-bench: simulated driver, profile %s, %s\n",
               lab.sim_profile.c_str(), lab.device.c_str());
  return true;
}

Lab simulated_machine(const Lab& lab, const std::string& name, std::uint64_t total_bytes,
                      std::uint64_t context_bytes) {
  Lab other = lab;
  other.scratch += "/" + name;
  fs::create_directories(other.scratch + "/state");
  fs::permissions(other.scratch, fs::perms::owner_all);
  other.sim_profile = other.scratch + "/profile.toml";
  other.device_bytes = total_bytes;
  std::ofstream out(other.sim_profile);
  out << "name = \"simulated GPU\"\ncount = 1\n[driver]\ncuda_version = 13000\nversion = "
         "\"580.159.04\"\n"
      << "[device]\ntotal_bytes = " << total_bytes << "\nnvml_total_bytes = " << total_bytes
      << "\nsms = 132\n"
      << "[charge]\ncontext_bytes = " << context_bytes
      << "\nextra_context_bytes = " << context_bytes << "\n";
  return other;
}

Lab stub_machine(const Lab& lab) {
  Lab other = lab;
  other.scratch += "/stub";
  fs::create_directories(other.scratch + "/state");
  fs::permissions(other.scratch, fs::perms::owner_all);
  other.sim = lab.stub;
  other.device_bytes = 256ull << 30;
  return other;
}

void close_lab(const Lab& lab) {
  std::error_code ignored;
  if (!lab.scratch.empty()) fs::remove_all(lab.scratch, ignored);
}

}  // namespace bulkhead::bench
