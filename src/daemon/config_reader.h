// Reads the configuration again, off the control loop: a file may lie on a file system that does not answer, and no open(2) flag helps
// against that. One thread for each read, which ends with it; at most one at a time, so a file system that hangs costs one thread and not the
// daemon. Everything here is called by the control loop; only the loading itself runs on the thread.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "daemon/config.h"
#include "daemon/duty.h"
#include "daemon/poller.h"

namespace bulkhead::daemon {

class ConfigReader final : public Duty {
 public:
  using Load = std::function<Outcome<Config>(const std::string& file)>;
  using Done = std::function<void(const Answer&)>;
  static constexpr std::uint64_t kPatience_ns = 10'000'000'000;  // then who asked is answered

  // `load` runs on the thread, and may run when this is gone.
  explicit ConfigReader(Load load = load_config) : load_(std::move(load)) {}
  // The poller wakes the loop when a read has ended. kIo.
  [[nodiscard]] Status open(Poller& poller);

  // Puts into force what was read, or the problem; once a read. Set once.
  std::function<Answer(Outcome<Config>)> apply;

  // Begins a read, or lets the next one begin after the one that runs: the answer is of a read that began after this call. `done` is called in
  // a tick(), or at once if nothing can be read.
  void read(const Now& now, const std::string& file, Done done);
  int tick(const Now& now) override;
  const char* name() const override { return "configuration"; }
  [[nodiscard]] bool reading() const { return job_ != nullptr; }

 private:
  struct Job;
  void begin(const Now& now);
  void answer(std::vector<Done>& to, Outcome<Config> read);

  Load load_;
  UniqueFd bell_;
  std::string file_;
  std::shared_ptr<Job> job_;  // runs; null: none
  bool given_up_ = false;     // nobody waits for it any more
  std::uint64_t began_ns_ = 0;
  std::vector<Done> served_;   // by the read that runs
  std::vector<Done> waiting_;  // for the next
};

}  // namespace bulkhead::daemon
