// bulkhead events: what the daemon reported, and reports.
#pragma once
#include <string>

namespace bulkhead::cli {

struct EventsOptions {
  bool follow = false;
  bool json = false;
  std::string since;
  std::string tenant;
  std::string severity;  // this and worse
  std::string simulator;
};
// 0; 1 if the daemon went away or nothing can be read; 2 for a malformed option.
int events(const EventsOptions& options);

}  // namespace bulkhead::cli
