// Where the audit's entries go in this program: the log's writer, if one is built in.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "audit/sink.h"
#include "audit/upkeep_rules.h"
#include "base/outcome.h"

namespace bulkhead::daemon {

struct AuditSinkOptions {
  std::string directory;  // [audit] dir, or STATE/audit
  std::uint32_t sync_ms = 10;
  std::uint64_t segment_bytes = 0;  // 0: the usual
  std::uint64_t segment_s = 86'400;
  audit::UpkeepRules upkeep;
  // Any thread: one line of what changed; `good`: nothing is to be done about it.
  std::function<void(bool good, const std::string& text)> told;
};
struct AuditSink {
  std::unique_ptr<audit::Sink> sink;
  std::uint64_t found = 0;  // leaves that were there before this start wrote any
};
// False: modes other than off are refused.
[[nodiscard]] bool has_audit_sink();
[[nodiscard]] Outcome<AuditSink> open_audit_sink(const AuditSinkOptions& options);

}  // namespace bulkhead::daemon
