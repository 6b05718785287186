// The audit log and the grants in OpenMetrics.
#include "daemon/sight/metrics.h"
#include "daemon/sight/text.h"

namespace bulkhead::daemon {

void write_audit(Exposition& out, const wire::AuditView& v) {
  const auto one = [&out](Type type, std::string_view name, std::string_view help,
                          std::uint64_t value) {
    out.family(type, name, "", help);
    out.sample({}, value);
  };
  one(Type::kGauge, "bulkhead_audit_on", "1: an audit log is written.",
      (v.flags & wire::kAuditOn) != 0 ? 1u : 0u);
  one(Type::kGauge, "bulkhead_audit_full",
      "1: the log has no room, and entries wait in their lanes.",
      (v.flags & wire::kAuditFull) != 0 ? 1u : 0u);
  one(Type::kGauge, "bulkhead_audit_failed", "1: the log is not written any more.",
      (v.flags & wire::kAuditFailed) != 0 ? 1u : 0u);
  one(Type::kCounter, "bulkhead_audit_gaps", "Entries that are known to be missing.", v.gaps);
  one(Type::kGauge, "bulkhead_audit_log_entries", "Entries and records in the log.", v.size);
  one(Type::kGauge, "bulkhead_audit_log_durable", "Of them, those on the disk.", v.durable);
  one(Type::kGauge, "bulkhead_audit_log_signed", "Of them, those under a signed checkpoint.",
      v.signed_size);
  one(Type::kGauge, "bulkhead_audit_log_cosigned",
      "The largest size that a witness cosigned since the daemon's start.", v.cosigned);
  one(Type::kGauge, "bulkhead_audit_segments_closed", "Closed segments that are kept.", v.segments);
  one(Type::kCounter, "bulkhead_audit_segments_packed", "Segments that were packed.", v.packed);
  one(Type::kCounter, "bulkhead_audit_segments_removed", "Segments that the policy removed.",
      v.removed);
  one(Type::kGauge, "bulkhead_audit_witnesses", "Witnesses that are asked.", v.witnesses);
  one(Type::kGauge, "bulkhead_audit_witnesses_away", "Of them, those that did not answer last.",
      v.witnesses_away);
  one(Type::kCounter, "bulkhead_audit_clock_steps", "Steps of the wall clock that were recorded.",
      v.clock_steps);
  one(Type::kGauge, "bulkhead_grants_valid", "Grants that hold now.", v.grants_living);
  one(Type::kCounter, "bulkhead_grants_accepted", "Grants that were accepted.", v.grants_accepted);
  one(Type::kCounter, "bulkhead_grants_expired", "Grants that reached their end.",
      v.grants_expired);
  one(Type::kCounter, "bulkhead_grants_revoked", "Grants that were taken back.", v.grants_revoked);
  out.family(Type::kCounter, "bulkhead_grants_refused", "", "Tokens that were refused, by reason.");
  for (const wire::RefusalCount& r : v.refused) {
    if (r.name[0] == '\0') break;
    out.sample({{"reason", r.name}}, r.count);
  }
}

}  // namespace bulkhead::daemon
