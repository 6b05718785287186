// bulkhead audit: the tamper-evident log, made, verified and read. Exit codes of verify and prove --check: 0 intact, 1 it
// is not, 2 it could not be checked (also a wrong command line).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace CLI {  // NOLINT(readability-identifier-naming): the library's
class App;
}

namespace bulkhead::cli {

struct AuditOptions {
  std::string dir;  // "": the daemon's own
  std::string key, trusted, file, out, origin, name, socket, state, tenant, jwks, since;
  std::vector<std::string> witnesses;
  std::uint64_t index = 0, from = 0, to = 0, count = 20;
  bool json = false, follow = false, addresses = false, check = false, tiles = false;
};

// The grammar of `audit` and its commands.
void add_audit(CLI::App& app, AuditOptions& options);
int audit(const CLI::App& app, const AuditOptions& options);

int audit_init(const AuditOptions& options);
int audit_verify(const AuditOptions& options);
int audit_show(const AuditOptions& options);
int audit_tail(const AuditOptions& options);
int audit_stats(const AuditOptions& options);
int audit_prove(const AuditOptions& options);
int audit_export(const AuditOptions& options);
int audit_pack(const AuditOptions& options);
int audit_witness(const AuditOptions& options);
int audit_cosign(const AuditOptions& options);
// 0: what was counted is logged; 1: not; 2: could not be compared; 3: logged, and functions that move data were handed out unseen.
int audit_coverage(const AuditOptions& options);

}  // namespace bulkhead::cli
