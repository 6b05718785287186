// [siem] of the configuration (docs/compliance/siem.md).
#pragma once
#include "daemon/config.h"
#include "daemon/config_table.h"

namespace bulkhead::daemon {

void read_siem(ConfigTable table, Config& config);

}  // namespace bulkhead::daemon
