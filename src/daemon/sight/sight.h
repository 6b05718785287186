// The sight child: OpenMetrics and the console, as an unprivileged process that sees the picture (wire/picture.h) and
// its listening sockets and nothing else. What faces the network is here and only here (docs/daemon.md, D8).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/outcome.h"

namespace bulkhead::daemon {

inline constexpr const char* kSightFlag = "--sight";  // bulkheadd's first argument, of the child
inline constexpr std::uint16_t kMetricsPort = 9477;
inline constexpr std::uint16_t kConsolePort = 9478;

enum class Door : std::uint8_t { kMetricsUnix = 0, kMetricsTcp = 1, kConsole = 2 };

// One listening socket; `port` is what a Host header must name (TCP only).
struct Listener {
  Door door = Door::kMetricsUnix;
  int fd = -1;
  std::uint16_t port = 0;
};

struct SightOptions {
  bool hami_names = false;  // HAMi's metric names beside ours
  bool dcgm_names = false;  // DCGM exporter's
  std::string token;        // of the console; never empty where a console is served
  int parent_pid = 0;       // whom to die with; 0 = not checked
};

// Serves until SIGTERM or until the parent ends. Takes over every descriptor; drops privileges first and answers
// nothing if it cannot. Returns an exit code.
int sight_main(int picture_fd, const std::vector<Listener>& listeners, const SightOptions& options);

// What `bulkheadd --sight` does: takes the descriptors that SightChild left (see child.cc) and calls sight_main().
int sight_child_main();

// DIR/metrics.sock, 0660 to root's group `bulkhead` (a user: 0600). An old socket file there is replaced.
[[nodiscard]] Outcome<UniqueFd> listen_unix(const std::string& path);
// 127.0.0.1 only.
[[nodiscard]] Outcome<UniqueFd> listen_loopback(std::uint16_t port);
// The console's address with its token in the fragment, from DIR/console.url (0640; root's group `bulkhead`). A file
// that is there and well formed keeps its token, so that pages stay open over a restart. Returns the token.
[[nodiscard]] Outcome<std::string> console_token(const std::string& directory, std::uint16_t port);

}  // namespace bulkhead::daemon
