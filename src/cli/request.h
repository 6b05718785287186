// What is asked of `run`: options first, then BULKHEAD_* variables, then, if none of ours is set,
// HAMi's.
#pragma once
#include <string>
#include <vector>

#include "cli/say.h"
#include "cli/share.h"
#include "policy/size.h"

namespace bulkhead::cli {

struct RunOptions {
  std::string tenant;
  std::string memory;
  std::string on_fault;
  std::string audit;  // off, observe or enforce; empty: not asked for
  ShareOptions share;
  std::string streams;    // --streams; empty: not asked for
  std::string simulator;  // a profile; empty: not asked for
  bool overcommit = false;
  bool no_daemon = false;
  bool quiet = false;
  std::string wait_time;   // in the daemon's queue if the node is full; empty: do not wait
  std::string grant_file;  // --grant; empty: none
  std::vector<std::string> command;
};

struct Request {
  std::string tenant;  // empty: an ephemeral one
  bool open_on_fault = false;
  std::string audit;      // as above
  std::string simulator;  // profile
  // How much on each visible GPU. Without it a tenant must exist.
  bool has_memory = false;
  std::string memory_from;  // where it was said, for messages: "--memory", "BULKHEAD_MEMORY" ...
  policy::MemorySpec memory;
  policy::Grammar grammar = policy::Grammar::kOurs;
  AskedShare share;     // of the time of each GPU
  std::string streams;  // how a process's streams divide the multiprocessors; empty: they do not
};

// Reads options and environment; the problem names the option or variable and the fix.
// A malformed option is a usage error (`exit_code` 2), a malformed variable is our failure (125).
[[nodiscard]] Outcome<Request> read_request(const RunOptions& options, int* exit_code = nullptr);
// Removes from our own environment what would make the preloaded library bind this process, so that
// the command line sees the machine as it is even where the library is preloaded everywhere.
void disarm_environment();

}  // namespace bulkhead::cli
