// bulkhead run: a command under a memory quota.
#pragma once
#include "cli/request.h"

namespace bulkhead::cli {

// Returns the exit code of timeout(1) and env(1): the command's own, 128 + signal, or 125, 126,
// 127.
int run(const RunOptions& options);

}  // namespace bulkhead::cli
