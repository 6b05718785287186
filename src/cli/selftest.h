// `bulkhead doctor --self-test`: what this GPU and driver do with percentages, green contexts and time slices, judged by behaviour, and kept
// with its evidence. docs/spatial.md "Self-tests".
#pragma once
#include <string>
#include <vector>

#include "cli/machine.h"
#include "gpu/selftest.h"

namespace bulkhead::cli {

struct SelfTestOptions {
  std::string control = "nvidia-cuda-mps-control";  // the control program
  bool mps =
      true;  // whether a private MPS may be started; false: spatial and partitions stay unknown
};
// Tests every visible GPU that nobody uses and keeps what was seen. What was tested, in `out`; the problem, one line, or "".
[[nodiscard]] std::string self_test(const Machine& machine, const SelfTestOptions& options,
                                    std::vector<gpu::SelfTest>& out);

// The child's side: `bulkhead __selftest WHAT SIMULATOR`, on the first visible GPU; one line on stdout.
int self_test_worker(const std::string& what, const std::string& simulator);

}  // namespace bulkhead::cli
