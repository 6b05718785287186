// bulkhead rollout: a tenant's audit mode, step by step, by the daemon (docs/rollout.md). Exit codes: 0 the target is in force (or, with
// nothing asked, no rollout fell back), 1 it fell back, was stopped or refused, 2 a wrong command line.
#pragma once
#include <string>
#include <vector>

namespace CLI {  // NOLINT(readability-identifier-naming): the library's
class App;
}

namespace bulkhead::cli {

struct RolloutOptions {
  std::string name, to, watch = "10m", service_file;
  std::vector<std::string> abort_on;
  bool stop = false, detach = false, json = false;
};
void add_rollout(CLI::App& app, RolloutOptions& options);
int rollout(const RolloutOptions& options);

}  // namespace bulkhead::cli
