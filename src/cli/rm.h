// bulkhead rm: removes a tenant.
#pragma once
#include <string>

namespace bulkhead::cli {

struct RmOptions {
  std::string name;
  bool force = false;
};
int rm(const RmOptions& options);

}  // namespace bulkhead::cli
