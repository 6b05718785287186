// What the self-tests' parts share: processes on a GPU under test, and an MPS of their own. Only selftest*.cc include it.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli/child.h"
#include "cli/selftest.h"

namespace bulkhead::cli::selftest {

inline constexpr int kPatience_ms = 60'000;

// A GPU under test: what its processes have in their environment.
struct Bench {
  const Machine& machine;
  const SelfTestOptions& options;
  Variables variables;
  [[nodiscard]] Variables with(const Variables& more) const {
    Variables out = variables;
    out.insert(out.end(), more.begin(), more.end());
    return out;
  }
  [[nodiscard]] std::vector<std::string> worker(const char* what) const;
};

[[nodiscard]] nlohmann::json parsed(const std::string& line);
[[nodiscard]] std::string problem_of(const nlohmann::json& j);
[[nodiscard]] std::optional<unsigned> number(const nlohmann::json& j, const char* key);
// What a worker says; it has ended then.
[[nodiscard]] nlohmann::json ask(const Bench& b, const char* what, const Variables& more = {});
[[nodiscard]] std::string first_line(const std::string& text);

// A control daemon in a directory of its own; ended with this.
class PrivateMps {
 public:
  // `more`: words behind -d.
  explicit PrivateMps(const std::string& program, const std::vector<std::string>& more = {});
  PrivateMps(const PrivateMps&) = delete;
  PrivateMps& operator=(const PrivateMps&) = delete;
  ~PrivateMps();
  [[nodiscard]] bool runs() const { return runs_; }
  [[nodiscard]] const std::string& said() const { return said_; }
  [[nodiscard]] Variables variables() const {
    return {{"CUDA_MPS_PIPE_DIRECTORY", home_ + "/pipe"},
            {"CUDA_MPS_LOG_DIRECTORY", home_ + "/log"}};
  }
  // Its exit code, and what it said.
  std::pair<int, std::string> order(const std::string& text);

 private:
  std::string program_, home_, said_;
  bool runs_ = false;
};

// docs/spatial.md "Self-tests": `mps` is one without partitions, which is asked whether it knows of them.
void test_partitions(const Bench& b, PrivateMps& mps, gpu::SelfTest& out);

}  // namespace bulkhead::cli::selftest
