// Whether a command may start under its audit mode. Under enforce it needs a daemon that takes its entries.
#pragma once
#include <string>

#include "shm/dir.h"

namespace bulkhead::cli {

// `asked`: "", "off", "observe" or "enforce"; the node page's word for the tenant binds if it is stricter. The problem, or "".
[[nodiscard]] std::string audit_problem(const shm::Dir& dir, const std::string& tenant,
                                        const std::string& asked);

}  // namespace bulkhead::cli
