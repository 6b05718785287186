// bulkheadd's parts, made and wired in the order of docs/daemon.md "Start and end".
#pragma once
#include <memory>
#include <string>

#include "base/outcome.h"

namespace bulkhead::daemon {

struct DaemonOptions {
  std::string config_file;  // "": /etc/bulkhead/bulkheadd.toml for root if it exists, else none
  std::string directory;    // "": as `run` chooses it
  std::string simulator;    // a profile of the simulated driver; "" = the machine's driver
  bool sight = true;
};

class Node {
 public:
  // Everything up to READY=1. The problem is one line with its fix; exit_code says whose fault it is (78: configuration).
  static Outcome<std::unique_ptr<Node>> start(const DaemonOptions& options, int& exit_code);
  virtual ~Node() = default;
  // Until TERM or INT. Regions, node page and tenants stay.
  virtual int run() = 0;
};

// Reads the configuration and says what is wrong with it, without devices. The problem, or "".
[[nodiscard]] std::string check_configuration(const std::string& file);

}  // namespace bulkhead::daemon
