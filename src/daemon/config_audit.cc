// [audit] of the configuration.
#include "daemon/config_audit.h"

#include "policy/size.h"

namespace bulkhead::daemon {
namespace {

void size(ConfigTable& t, const char* key, policy::Size& out) {
  std::string value;
  const unsigned at = t.text(key, value);
  if (at != 0 && (!policy::parse_size(value.c_str(), policy::Grammar::kOurs, &out) ||
                  out.is_percent || out.bytes == 0)) {
    t.blame(at, key, "'" + value + "' is not a size in bytes, like \"512MiB\"");
  }
}

template <class Number>
void number(ConfigTable& t, const char* key, std::int64_t most, Number& out) {
  std::int64_t value = 0;
  if (t.number(key, 1, most, value) != 0) out = static_cast<Number>(value);
}

}  // namespace

void read_audit(ConfigTable audit, Config& c) {
  c.audit = audit.present();
  audit.text("dir", c.audit_dir);
  unsigned full = 0;
  audit.word("full", {"block", "deny", "count"}, full);
  c.audit_full = full == 0 ? "block" : full == 1 ? "deny" : "count";
  number(audit, "deadline_ms", 86'400'000, c.audit_deadline_ms);
  number(audit, "sync_ms", 86'400'000, c.audit_sync_ms);
  size(audit, "lane_budget", c.audit_lane_budget);
  size(audit, "segment", c.audit_keep.segment);
  number(audit, "segment_s", 366 * 86'400, c.audit_keep.segment_s);
  audit.flag("pack", c.audit_keep.pack);
  number(audit, "retain_days", 36'500, c.audit_keep.retain_days);
  size(audit, "retain_size", c.audit_keep.retain_size);
  const unsigned at = audit.texts("witnesses", c.audit_witnesses);
  for (const std::string& path : c.audit_witnesses) {
    if (!path.starts_with('/'))
      audit.blame(at, "witnesses", "'" + path + "' is not a socket's whole path; begin it with /");
  }
  number(audit, "witness_s", 86'400, c.audit_keep.witness_s);
  audit.finish();
}

}  // namespace bulkhead::daemon
