#include <CLI/CLI.hpp>

#include "cli/rollout.h"

namespace bulkhead::cli {

void add_rollout(CLI::App& app, RolloutOptions& o) {
  app.add_option("NAME", o.name, "The tenant")->required();
  app.add_option("--to", o.to, "The mode to arrive at, over the one before it")
      ->check(CLI::IsMember({"observe", "enforce"}))
      ->type_name("observe|enforce");
  app.add_option("--abort-on", o.abort_on,
                 "Fall back on: gap, p99=0.8ms (held by auditing), refusals=10, service-p99=5ms; "
                 "may be repeated")
      ->delimiter(',')
      ->type_name("CONDITION");
  app.add_option("--watch", o.watch, "Each mode for so long before the next (default 10m)")
      ->type_name("TIME");
  app.add_option("--service-file", o.service_file,
                 "Where the service writes its own p99 in milliseconds, each few seconds")
      ->type_name("FILE");
  app.add_flag("--stop", o.stop, "End the rollout; the mode stays as it is");
  app.add_flag("--detach", o.detach, "Do not wait for its end: the daemon goes on by itself");
  app.add_flag("--json", o.json, "For programs: one object a line");
}

}  // namespace bulkhead::cli
