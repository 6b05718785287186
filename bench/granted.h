// A daemon of the bench's own that writes an audit log, with a tenant under enforce that has a grant for everything the cases do.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "bench/daemon.h"

namespace bulkhead::bench {

class Granted {
 public:
  // In a directory `name` of its own below the lab's. `others`: tenants without auditing, of the same daemon.
  Granted(const Lab& beside, const std::string& name, const std::vector<Tenant>& others,
          bool latency = false);

  [[nodiscard]] const std::string& error() const { return error_; }  // "": it runs
  [[nodiscard]] const Lab& lab() const { return lab_; }
  [[nodiscard]] const Tenant& tenant() const { return tenant_; }

 private:
  Lab lab_;
  Tenant tenant_;
  std::unique_ptr<Daemon> daemon_;
  std::string error_;
};

}  // namespace bulkhead::bench
