// A bulkheadd without a writer of the log.
#include "daemon/audit_sink.h"

namespace bulkhead::daemon {

bool has_audit_sink() { return false; }
Outcome<AuditSink> open_audit_sink(const AuditSinkOptions&) {
  return Outcome<AuditSink>::because(
      "this bulkheadd has no audit writer built in: audit = \"off\"");
}

}  // namespace bulkhead::daemon
