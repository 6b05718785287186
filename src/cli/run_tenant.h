// The tenant of one `bulkhead run`: found, or made as asked, by the daemon's leave where one answers. One thread.
#pragma once
#include <memory>
#include <string>

#include "base/bus_guard.h"
#include "cli/grant_watch.h"
#include "cli/machine.h"
#include "cli/run.h"
#include "shm/tenant.h"
#include "wire/client.h"

namespace bulkhead::cli {

using Problem = std::string;  // empty: none
inline constexpr const char* kNoQuota =
    "run needs a quota: --memory SIZE (10GiB, 50%), --compute SHARE, or --tenant NAME of one that "
    "exists";

// One `run`: what was asked, what it works on, and the tenant once there is one.
struct Run {
  const RunOptions& options;
  const Request& request;
  Machine& machine;
  shm::Tenant tenant{};
  GuardedRange guard{};  // of the tenant's region: after it, so that it ends before the mapping
  bool ephemeral = false;
  wire::Client daemon{};   // ok(): it answers, and tenants are its to make
  bool by_daemon = false;  // the tenant is one of its
  std::unique_ptr<GrantWatch> grant{};
  int left_queue = 0;  // the exit code if a signal ended the waiting
};

// Not empty: the region is shorter than it was when it was taken, and how to be rid of it.
[[nodiscard]] Problem region_cut_short(const Run& run);
// Joins the tenant that is named, if its limits are those asked for, or makes one. Without a daemon.
[[nodiscard]] Problem attach_or_create(Run& run);
// The same by the daemon's leave; waits in its queue if asked to.
[[nodiscard]] Problem enrol_with_daemon(Run& run);
// An ephemeral tenant, if nothing of it runs on.
void forget_tenant(Run& run);

}  // namespace bulkhead::cli
