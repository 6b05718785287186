// bulkhead sniff: what a command asks of the driver that our tables lack.
#pragma once
#include <string>
#include <vector>

namespace bulkhead::cli {

struct SniffOptions {
  std::string simulator;  // a profile
  std::vector<std::string> command;
};
// The command's exit code, or 125, 126, 127 as `run`. The report goes to stderr when the command
// has ended.
int sniff(const SniffOptions& options);

}  // namespace bulkhead::cli
