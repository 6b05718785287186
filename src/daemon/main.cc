// bulkheadd [--config FILE] [--dir DIR] [--sim PROFILE] [--no-sight] [--foreground] [--check-config]
#include <cstdio>
#include <cstring>
#include <string>

#include "daemon/audit_keep.h"
#include "daemon/config.h"
#include "daemon/node.h"
#include "daemon/service.h"
#include "daemon/siem/siem.h"
#include "daemon/sight/sight.h"

namespace {

constexpr int kExitUsage = 2;
constexpr const char* kUsage =
    "usage: bulkheadd [--config FILE] [--dir DIR] [--sim PROFILE] [--no-sight] [--foreground]\n"
    "       bulkheadd --check-config [--config FILE]\n"
    "It runs in the foreground, until SIGTERM; SIGHUP reads the configuration again.\n";

int fail(int code, const std::string& text) {
  std::fprintf(stderr, "bulkheadd: %s\n", text.c_str());
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace bulkhead::daemon;
  if (argc > 1 && std::strcmp(argv[1], kSightFlag) == 0) return sight_child_main();
  if (argc > 1 && std::strcmp(argv[1], kKeeperFlag) == 0) return keeper_main();
  if (argc > 1 && std::strcmp(argv[1], siem::kSiemFlag) == 0) return siem::siem_child_main();
  block_signals();
  DaemonOptions options;
  bool check_only = false;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    std::string* value = arg == "--config" ? &options.config_file
                         : arg == "--dir"  ? &options.directory
                         : arg == "--sim"  ? &options.simulator
                                           : nullptr;
    if (value != nullptr && i + 1 < argc) {
      *value = argv[++i];
    } else if (arg == "--no-sight") {
      options.sight = false;
    } else if (arg == "--check-config") {
      check_only = true;
    } else if (arg == "--help" || arg == "-h") {
      std::fputs(kUsage, stdout);
      return 0;
    } else if (arg != "--foreground") {
      std::fputs(kUsage, stderr);
      return fail(kExitUsage,
                  value != nullptr ? arg + " needs a value" : arg + " is not an option");
    }
  }
  if (check_only) {
    const std::string file = options.config_file.empty() ? kConfigFile : options.config_file;
    const std::string problem = check_configuration(file);
    return problem.empty() ? 0 : fail(kExitConfig, problem);
  }
  int exit_code = 1;
  auto node = Node::start(options, exit_code);
  if (!node.ok()) return fail(exit_code, node.problem);
  return (*node)->run();
}
