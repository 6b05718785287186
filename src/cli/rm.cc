#include "cli/rm.h"

#include <fmt/format.h>

#include "cli/install.h"
#include "cli/machine.h"
#include "cli/remote.h"
#include "cli/request.h"
#include "cli/say.h"
#include "shm/tenant.h"

namespace bulkhead::cli {

int rm(const RmOptions& options) {
  if (!shm::valid_name(options.name.c_str())) {
    return fail(kExitUsage, fmt::format("'{}' is not the name of a tenant", options.name));
  }
  disarm_environment();
  auto machine = open_machine(env_or_empty("BULKHEAD_SIM"), Directory::kMayBeMissing);
  if (!machine.ok()) return fail(kExitProblem, machine.problem);
  if (!(*machine)->dir.fd.ok()) {
    return fail(kExitProblem, (*machine)->directory + " does not exist: there are no tenants");
  }
  wire::Client client;
  std::string problem;
  if (connect_daemon((*machine)->dir, client, problem) == Daemon::kAnswers) {
    wire::NameRequest q{};
    wire::put_text(q.name, options.name.c_str());
    q.flags = options.force ? wire::kForce : 0;
    bool ok = false;
    const std::string text = ask_verdict(client, wire::Kind::kUnregister, q, ok);
    return ok ? int{kExitOk} : fail(kExitProblem, text);
  }
  const Status status = shm::remove_tenant((*machine)->dir, options.name.c_str(), options.force);
  if (status.ok()) return kExitOk;
  if (status.code() == Errc::kNotReady) {
    return fail(
        kExitProblem,
        fmt::format("tenant {} has running processes: end them, or use --force", options.name));
  }
  return fail(kExitProblem, fmt::format("tenant {}: {}", options.name, describe(status)));
}

}  // namespace bulkhead::cli
