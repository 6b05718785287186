// Who holds our descriptors while no daemon lives: the service manager's fd store, else a process of our own that does
// nothing else (`bulkheadd --keeper`). Control loop, or before it starts.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/outcome.h"
#include "base/status.h"

namespace bulkhead::daemon {

inline constexpr const char* kKeeperFlag = "--keeper";
inline constexpr const char* kKeeperSocket = "keeper.sock";
inline constexpr std::size_t kMostKeptName = 64;

struct Kept {
  std::string name;
  UniqueFd fd;
};

class Keep {
 public:
  Keep() = default;
  Keep(const Keep&) = delete;
  Keep& operator=(const Keep&) = delete;
  virtual ~Keep() = default;
  // From the return of this on the descriptor survives our SIGKILL. The name is [a-z0-9.]; `fd` stays the caller's, open
  // until drop(). Never waits for long.
  [[nodiscard]] virtual Status put(const std::string& name, int fd) = 0;
  virtual void drop(const std::string& name) = 0;
  // What a daemon before us had put; once.
  [[nodiscard]] virtual std::vector<Kept> take() = 0;
  virtual const char* who() const = 0;
};

// The fd store if the service manager has one for us ($NOTIFY_SOCKET and $FDSTORE, or descriptors passed at the start), else the
// keeper of the directory, started if there is none.
[[nodiscard]] Outcome<std::unique_ptr<Keep>> open_keep(int dir_fd, const std::string& path);

// `bulkheadd --keeper`: its listening socket is descriptor 3. Ends when it holds nothing and nobody is connected.
int keeper_main();

}  // namespace bulkhead::daemon
