// bulkhead demo: several processes share one GPU under quotas, step by step.
#pragma once
#include <string>

namespace bulkhead::cli {

struct DemoOptions {
  std::string simulator;  // a profile; empty: the GPU if there is one
};
// 0 only if every step came out as it should.
int demo(const DemoOptions& options);

// The hidden worker: takes orders on stdin, answers each with one line on stdout.
int demo_worker();

}  // namespace bulkhead::cli
