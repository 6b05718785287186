// Shared by the commands of `bulkhead audit`.
#pragma once
#include <memory>
#include <string>

#include "audit/reader.h"
#include "base/outcome.h"
#include "cli/audit.h"

namespace bulkhead::cli {

// The directory that is named, else STATE/audit of the daemon of this user.
[[nodiscard]] std::string audit_directory(const AuditOptions& options);
[[nodiscard]] Outcome<std::unique_ptr<audit::LogReader>> open_log(const AuditOptions& options);
// From host.pub; "" if there is none.
[[nodiscard]] std::string origin_of(audit::Files& files);
// Each missing directory of the path, 0700.
[[nodiscard]] bool make_private_directories(const std::string& path);

}  // namespace bulkhead::cli
