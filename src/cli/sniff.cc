#include "cli/sniff.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>
#include <sstream>

#include "cli/install.h"
#include "cli/launch.h"
#include "cli/request.h"
#include "cli/say.h"

namespace bulkhead::cli {
namespace {

constexpr const char* kHooked[] = {
#define BH_HOOK(name, ...) #name,
#define BH_PASS(...)
#define BH_PASS_TEXT(...)
#include "abi/cuda.def"
#define BH_HOOK(name, ...) #name,
#define BH_PASS(...)
#define BH_PASS_TEXT(...)
#include "abi/nvml.def"
};
constexpr const char* kPassed[] = {
#define BH_HOOK(...)
#define BH_PASS(name, ...) #name,
#define BH_PASS_TEXT(name, ...) #name,
#include "abi/cuda.def"
#define BH_HOOK(...)
#define BH_PASS(name, ...) #name,
#define BH_PASS_TEXT(name, ...) #name,
#include "abi/nvml.def"
};

// cuMemAlloc_v2_ptds -> cuMemAlloc: cuGetProcAddress is asked by base name.
std::string base_name(std::string name) {
  for (const char* twin : {"_ptsz", "_ptds"}) {
    if (name.ends_with(twin)) name.resize(name.size() - 5);
  }
  const auto version = name.rfind("_v");
  if (version != std::string::npos && version + 2 < name.size() &&
      name.find_first_not_of("0123456789", version + 2) == std::string::npos) {
    name.resize(version);
  }
  return name;
}

struct Tables {
  std::set<std::string> exact;
  std::set<std::string> base;
  Tables() {
    const auto add = [this](const char* name) {
      exact.insert(name);
      base.insert(base_name(name));
    };
    for (const char* name : kHooked) add(name);
    for (const char* name : kPassed) add(name);
  }
};

struct Report {
  std::map<std::string, std::string> lacking;  // name -> how it was asked for
  std::set<std::string> ours, driver, absent;
};

Report read_lines(const std::string& text) {
  const Tables tables;
  Report out;
  std::istringstream lines{text};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words{line};
    std::string door, name, version, answer;
    if (!(words >> door >> name >> version >> answer)) continue;
    if (answer == "none") {
      out.absent.insert(name);
      continue;
    }
    (answer == "ours" ? out.ours : out.driver).insert(name);
    const bool known =
        door == "procaddress" ? tables.base.contains(name) : tables.exact.contains(name);
    if (!known)
      out.lacking[name] = door == "procaddress" ? fmt::format("{} {}", door, version) : door;
  }
  return out;
}

void print(const Report& r) {
  std::string text = fmt::format(
      "bulkhead: {} names resolved: {} answered by us, {} passed to the driver, {} that the driver "
      "lacks\n",
      r.ours.size() + r.driver.size() + r.absent.size(), r.ours.size(), r.driver.size(),
      r.absent.size());
  for (const auto& [name, how] : r.lacking)
    text += fmt::format("not in the tables: {} ({})\n", name, how);
  if (r.lacking.empty() && r.driver.size() + r.ours.size() != 0) {
    text += "bulkhead: the tables have every one of them\n";
  }
  std::fwrite(text.data(), 1, text.size(), stderr);
}

}  // namespace

int sniff(const SniffOptions& options) {
  disarm_environment();
  const std::string library = find_library();
  if (library.empty()) {
    return fail(kExitOurs,
                "libbulkhead.so is not installed: expected ../lib beside this program or "
                "/usr/lib/bulkhead");
  }
  const std::string profile =
      options.simulator.empty() ? env_or_empty("BULKHEAD_SIM") : options.simulator;
  if (!profile.empty()) {
    const std::string simulator = find_simulator();
    if (simulator.empty()) return fail(kExitOurs, "the simulated driver is not installed");
    ::setenv("BULKHEAD_SIM", profile.c_str(), 1);
    ::setenv("LD_LIBRARY_PATH", with_entry(std::getenv("LD_LIBRARY_PATH"), simulator, ":;").c_str(),
             1);
  }
  int ends[2];
  struct stat st {};
  if (::pipe2(ends, O_CLOEXEC) != 0 || ::fstat(ends[1], &st) != 0) {
    return fail(kExitOurs, "no pipe to listen on");
  }
  const UniqueFd from{ends[0]};
  UniqueFd to{ends[1]};
  ::fcntl(from.get(), F_SETFL, O_NONBLOCK);
  ::setenv("BULKHEAD_SNIFF", fmt::format("{}:{}", to.get(), st.st_ino).c_str(), 1);
  ::setenv("LD_PRELOAD", with_entry(std::getenv("LD_PRELOAD"), library, ": ").c_str(), 1);
  const Child child = start(options.command, to.get());
  to.reset();
  if (child.exec_errno != 0) return say_not_started(options.command[0], child.exec_errno);
  std::string text;
  const int code = wait_for(child, from.get(), &text);
  print(read_lines(text));
  return code;
}

}  // namespace bulkhead::cli
