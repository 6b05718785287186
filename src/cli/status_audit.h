// The audit's and the grants' part of `status`.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <optional>

#include "cli/machine.h"
#include "wire/messages.h"

namespace bulkhead::cli {

// nullopt: no daemon, one that audits nothing and has no grants, an older one, or one that does not tell us.
[[nodiscard]] std::optional<wire::AuditReply> ask_audit(const Machine& machine);
void print_audit(const std::optional<wire::AuditReply>& says);
[[nodiscard]] nlohmann::json audit_json(const std::optional<wire::AuditReply>& says);

}  // namespace bulkhead::cli
