// What the demo plays on: its own directory, workers under `bulkhead run`, and a picture of the
// books.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "cli/books.h"

namespace bulkhead::cli {

// A program under a quota: `bulkhead run --tenant T --memory M -- bulkhead __demo-worker`.
class DemoWorker {
 public:
  // nullptr: could not be started or did not come up; `problem` says why.
  static std::unique_ptr<DemoWorker> begin(const std::string& tenant, std::uint64_t memory_bytes,
                                           const std::string& simulator, std::string& problem);
  ~DemoWorker();
  DemoWorker(const DemoWorker&) = delete;
  DemoWorker& operator=(const DemoWorker&) = delete;

  void order(const char* what);
  // The next line it says, split into words; empty when it ended, or said nothing for a minute.
  [[nodiscard]] std::vector<std::string> answer();
  [[nodiscard]] bool has_answer(int wait_ms);
  // The worker itself, not the `run` in front of it.
  [[nodiscard]] pid_t pid() const { return worker_; }
  [[nodiscard]] const std::string& tenant() const { return tenant_; }
  // Ends the worker with SIGKILL and waits until `run` has seen it: its exit code.
  int kill_and_wait();

 private:
  DemoWorker() = default;
  std::string tenant_;
  pid_t run_ = -1;
  pid_t worker_ = -1;
  UniqueFd to_, from_;
  std::string said_;
};

// What one process holds on the first device, by its books; 0 if it is not there.
[[nodiscard]] std::uint64_t held_by(const TenantBooks& tenant, pid_t pid);

class DemoScreen {
 public:
  DemoScreen();
  void title(const std::string& text) const;
  void step(const std::string& text) const;
  // A tick or a cross; remembers a cross.
  bool check(bool held, const std::string& text);
  void bar(const TenantBooks& tenant) const;
  void verdict() const;
  [[nodiscard]] bool all_held() const { return failed_ == 0; }

 private:
  [[nodiscard]] std::string paint(const char* code, const std::string& text) const;
  bool colour_ = false;
  int checks_ = 0;
  int failed_ = 0;
};

}  // namespace bulkhead::cli
