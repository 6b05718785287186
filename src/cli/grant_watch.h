// `run --grant FILE`: gives what stands in the file, and again whenever it was replaced, as long as the command runs.
#pragma once
#include <string>
#include <thread>

#include "base/fd.h"
#include "shm/dir.h"

namespace bulkhead::cli {

// Before the tenant is asked for: memory of the reserve is for those that have a grant of its class already. `tenant` "": whose the
// operator's rules say this process is. "" also where nothing is known of the tenant yet: begin() tells then.
[[nodiscard]] std::string give_early(const shm::Dir& dir, std::string tenant,
                                     const std::string& file);

class GrantWatch {
 public:
  GrantWatch(const shm::Dir& dir, std::string tenant, std::string file)
      : dir_(dir), tenant_(std::move(tenant)), file_(std::move(file)) {}
  ~GrantWatch();
  // Gives the first one. The problem, or "".
  [[nodiscard]] std::string begin();
  // From now on in a thread of its own (signals must be blocked). What goes wrong is a warning: the old grant still holds.
  void watch();

 private:
  void run();
  [[nodiscard]] std::string give();

  const shm::Dir& dir_;
  const std::string tenant_, file_;
  std::string given_;         // the token that the daemon has
  std::string last_problem_;  // told once
  UniqueFd stop_;
  std::thread thread_;
};

}  // namespace bulkhead::cli
