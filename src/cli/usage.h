// bulkhead usage: who held how much of which GPU for how long.
#pragma once
#include <string>

namespace bulkhead::cli {

struct UsageOptions {
  bool json = false;
  bool csv = false;
  std::string since;
  std::string tenant;
  std::string simulator;
};
// 0; 1 if nothing can be read; 2 for a malformed option.
int usage(const UsageOptions& options);

}  // namespace bulkhead::cli
