// bulkhead status: reads regions as `top` reads /proc. It works with nothing running and changes
// nothing.
#pragma once
#include <string>

namespace bulkhead::cli {

struct StatusOptions {
  bool json = false;
  std::string simulator;  // a profile
};
// 0; 1 if a region cannot be read (the others are shown).
int status(const StatusOptions& options);

}  // namespace bulkhead::cli
