// bulkhead set: another limit for a tenant that exists, while its programs run.
#pragma once
#include <string>

#include "cli/share.h"

namespace bulkhead::cli {

struct SetOptions {
  std::string name;
  std::string memory;  // empty: left as it is; so is each part of the share
  ShareOptions share;
  std::string audit;  // the same
  bool overcommit = false;
};
int set(const SetOptions& options);

}  // namespace bulkhead::cli
