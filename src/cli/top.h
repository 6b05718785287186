// bulkhead top: who holds how much of each GPU, again and again. Reads regions as `status` does, so it works with
// nothing running; what only the daemon knows (other owners' tenants, shares of time, strays) it asks for if one answers.
#pragma once
#include <string>

namespace bulkhead::cli {

struct TopOptions {
  bool batch = false;  // plain text on stdout, no terminal needed
  bool json = false;   // one object a line; implies batch
  int rounds =
      0;  // of batch; 0 = until it is stopped (without a terminal and without --batch: one)
  double delay_s = 2;  // 0.1 .. 3600
  std::string simulator;
};
int top(const TopOptions& options);

}  // namespace bulkhead::cli
