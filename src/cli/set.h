// bulkhead set: another limit for a tenant that exists, while its programs run.
#pragma once
#include <string>

namespace bulkhead::cli {

struct SetOptions {
  std::string name;
  std::string memory;
  bool overcommit = false;
};
int set(const SetOptions& options);

}  // namespace bulkhead::cli
