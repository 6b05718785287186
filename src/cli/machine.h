// What a command works on: the directory in use, NVML, the simulated driver if it was chosen.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "cli/gpus.h"
#include "cli/say.h"
#include "shm/dir.h"

namespace bulkhead::cli {

struct Machine {
  std::string simulator;   // directory of our simulated driver, if we put it in front; else ""
  bool simulated = false;  // the driver in use is simulated, whoever chose it
  std::optional<Nvml> nvml;
  std::string nvml_problem;  // why there is none
  shm::Dir dir;
  std::string directory;  // its path; set even where it is missing
  std::string state;      // where charge.json is; may be ""
};

enum class Directory { kCreate, kMayBeMissing };  // missing: dir.fd is not ok()

// `profile` not empty: the simulated driver with it. Sets BULKHEAD_SIM in our environment then.
// The problem is one line with its fix.
[[nodiscard]] Outcome<std::unique_ptr<Machine>> open_machine(const std::string& profile,
                                                             Directory directory);

enum class Daemon { kNone, kAnswers, kSilent };
[[nodiscard]] Daemon ask_daemon(const shm::Dir& dir);

}  // namespace bulkhead::cli
