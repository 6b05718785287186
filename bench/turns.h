// Workers of several variants led in short turns, A B A B: a machine whose speed changes from second to second changes it for all of them.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "bench/crew.h"

namespace bulkhead::bench {

inline constexpr unsigned kRounds = 40;  // turns of each worker in a repeat

class Turns {
 public:
  // `core`: all workers' calling threads stay on it, one at a time; so no core's own speed is in a difference.
  explicit Turns(unsigned core) : core_(core) {}
  // A worker of a case that takes turns (Worker::take_turns), in its own crew.
  void add(const Lab& lab, const Variant& variant, const Tenant& tenant, const std::string& work,
           Params params, const std::string& launch = "");
  // All rounds. "": measured; else what went wrong, and `failed()` says with which worker. The workers end.
  [[nodiscard]] std::string lead();
  [[nodiscard]] unsigned failed() const { return failed_; }
  [[nodiscard]] Block& block(unsigned i) { return crews_[i]->block(0); }
  // Median over the rounds of what worker i's mean call took more than worker 0's right before or after it, ns.
  [[nodiscard]] double added_ns(unsigned i);

 private:
  unsigned core_;
  unsigned failed_ = 0;
  std::vector<std::unique_ptr<Crew>> crews_;
};

// The core of a repeat: another each time, never the first.
[[nodiscard]] unsigned core_of(unsigned repeat);

}  // namespace bulkhead::bench
