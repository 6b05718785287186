#include "cli/audit.h"

#include <CLI/CLI.hpp>

#include "cli/say.h"

namespace bulkhead::cli {
namespace {

struct Entry {
  const char* name;
  const char* help;
  int (*run)(const AuditOptions&);
};
constexpr Entry kCommands[] = {
    {"verify", "Check a log: exit 0 intact, 1 changed or incomplete, 2 not checked", audit_verify},
    {"coverage", "Compare a tenant's log with what its library counted: exit 0, 1 a gap, 2, 3",
     audit_coverage},
    {"tail", "Show the newest entries", audit_tail},
    {"show", "Show one entry, checked against the signed tree", audit_show},
    {"prove", "Write a proof that an entry is in the log, or check one", audit_prove},
    {"export", "Write entries as JSON lines, or the log as tlog-tiles", audit_export},
    {"stats", "Sizes, checkpoints and segments", audit_stats},
    {"init", "Make the keys of a new log", audit_init},
    {"pack", "Compress the closed segments", audit_pack},
    {"witness", "Cosign checkpoints of other logs, on a Unix socket", audit_witness},
    {"cosign", "Ask witnesses to cosign the last checkpoint", audit_cosign},
};

void add_options(const std::string& name, CLI::App& c, AuditOptions& o) {
  if (name == "verify" || name == "stats" || name == "init" || name == "pack" || name == "tail" ||
      name == "export" || name == "cosign")
    c.add_option("DIR", o.dir, "Directory of the log (default: the daemon's)");
  if (name == "show" || name == "prove") {
    c.add_option("INDEX", o.index, "Number of the entry in the log, from 0");
    c.add_option("--dir", o.dir, "Directory of the log (default: the daemon's)")->type_name("DIR");
  }
  if (name == "verify" || name == "prove" || name == "witness") {
    auto* key =
        c.add_option("--key", o.key, "Keys to believe: the host.pub of the log")->type_name("FILE");
    if (name != "prove") key->required();
  }
  if (name == "verify") {
    c.add_option("--trusted", o.trusted, "A checkpoint kept from before: the log must continue it")
        ->type_name("FILE");
    c.add_flag("--json", o.json, "For programs");
  }
  if (name == "verify")
    c.add_option("--jwks", o.jwks, "Keys of the grants' issuers: verify each grant's token again")
        ->type_name("FILE");
  if (name == "coverage") {
    c.add_option("TENANT", o.tenant, "The tenant")->required();
    c.add_option("--dir", o.dir, "Directory of the log (default: the daemon's)")->type_name("DIR");
    c.add_option("--since", o.since,
                 "From the last known count before 90s, 10m, 2h, 7d ago, or a date (default: all)")
        ->type_name("WHEN");
    c.add_flag("--json", o.json, "For programs");
  }
  if (name == "stats") c.add_flag("--json", o.json, "For programs");
  if (name == "prove") {
    c.add_option("--check", o.file, "Check this proof with --key; no log is needed")
        ->type_name("FILE");
    c.add_option("--out", o.out, "Write the proof there, not to standard output")
        ->type_name("FILE");
  }
  if (name == "tail") {
    c.add_option("-n,--count", o.count, "So many (default 20)")->type_name("N");
    c.add_flag("--follow", o.follow, "Go on with new ones as they come");
  }
  if (name == "export") {
    c.add_option("--from", o.from, "First index")->type_name("INDEX");
    c.add_option("--to", o.to, "Index behind the last (default: all that is signed)")
        ->type_name("INDEX");
    c.add_option("--tiles", o.out, "Write the tlog-tiles layout into this directory")
        ->type_name("DIR");
  }
  if (name == "show" || name == "tail" || name == "export")
    c.add_flag("--addresses", o.addresses, "With source and destination addresses");
  if (name == "init")
    c.add_option("--origin", o.origin,
                 "Name of the log in its checkpoints (default: HOST/bulkhead)")
        ->type_name("NAME");
  if (name == "witness") {
    c.add_option("--state", o.state, "Directory for its key and what it cosigned")
        ->type_name("DIR")
        ->required();
    c.add_option("--socket", o.socket, "Unix socket to serve")->type_name("PATH")->required();
    c.add_option("--name", o.name, "Its name in cosignatures (default: HOST/witness)")
        ->type_name("NAME");
  }
  if (name == "cosign")
    c.add_option("--witness", o.witnesses, "Socket of a witness; may be repeated")
        ->type_name("PATH")
        ->required();
}

}  // namespace

void add_audit(CLI::App& app, AuditOptions& o) {
  CLI::App& group = *app.add_subcommand("audit", "Verify and read the audit log");
  group.require_subcommand(1);
  for (const Entry& e : kCommands) add_options(e.name, *group.add_subcommand(e.name, e.help), o);
}

int audit(const CLI::App& app, const AuditOptions& o) {
  const std::string name = app.get_subcommands().front()->get_name();
  for (const Entry& e : kCommands) {
    if (name == e.name) return e.run(o);
  }
  return kExitUsage;
}

}  // namespace bulkhead::cli
