// Where a directory in use keeps what must outlive it. For programs of ours, never inside the preloaded library.
#pragma once
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace bulkhead {

// Of this user, on the machine: /var/lib/bulkhead for root, else $XDG_STATE_HOME/bulkhead or ~/.local/state/bulkhead;
// empty: none of them can be named.
inline std::string user_state_directory() {
  if (::geteuid() == 0) return "/var/lib/bulkhead";
  const char* const state = std::getenv("XDG_STATE_HOME");
  if (state != nullptr && state[0] == '/') return std::string{state} + "/bulkhead";
  const char* const home = std::getenv("HOME");
  return home != nullptr && home[0] == '/' ? std::string{home} + "/.local/state/bulkhead" : "";
}

// Events, usage and tenants of the daemon that serves `directory`: the above for /run/bulkhead (root) and
// $XDG_RUNTIME_DIR/bulkhead; any other directory, and a simulated node, keeps them in its own `state`, so that two
// daemons never share a file.
inline std::string daemon_state_directory(const std::string& directory, bool simulated) {
  const char* const runtime = std::getenv("XDG_RUNTIME_DIR");
  const bool usual = ::geteuid() == 0
                         ? directory == "/run/bulkhead"
                         : runtime != nullptr && directory == std::string{runtime} + "/bulkhead";
  return usual && !simulated ? user_state_directory() : directory + "/state";
}

}  // namespace bulkhead
