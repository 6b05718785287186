// Inside of the configuration's reader.
#pragma once
#include "daemon/config.h"
#include "daemon/config_table.h"

namespace bulkhead::daemon {

void read_audit(ConfigTable audit, Config& config);

}  // namespace bulkhead::daemon
