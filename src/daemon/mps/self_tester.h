// [daemon] self_test: runs `bulkhead doctor --self-test` once for GPUs and a driver without a verdict, while nobody uses them. A duty of
// the control loop; the test is a process of its own, and tells us to reload when it is done. docs/spatial.md.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "daemon/duty.h"

namespace bulkhead::daemon {

class SelfTester final : public Duty {
 public:
  static constexpr std::uint64_t kQuiet_ns = 10'000'000'000;   // nobody on a GPU for so long
  static constexpr std::uint64_t kAgain_ns = 600'000'000'000;  // after one that brought nothing
  struct Outside {
    std::string program;                       // bulkhead
    std::function<bool()> wanted;              // configured, and a verdict is missing
    std::function<bool()> idle;                // nobody is on any GPU, by the newest round
    std::function<std::string()> mps_control;  // "": [mps] is not enabled
    std::function<void(bool ok)> ended;
    std::vector<std::string> environment;  // NAME=VALUE, all of it
  };
  explicit SelfTester(Outside outside) : outside_(std::move(outside)) {}
  ~SelfTester() override;
  int tick(const Now& now) override;
  const char* name() const override { return "self-test"; }
  [[nodiscard]] bool running() const { return pid_ > 0; }

 private:
  void start();

  Outside outside_;
  pid_t pid_ = -1;
  std::uint64_t quiet_since_ns_ = 0;
  std::uint64_t not_before_ns_ = 0;
};

}  // namespace bulkhead::daemon
