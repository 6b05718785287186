// How the child becomes somebody who may do nothing. Every step must succeed.
#pragma once
#include <cstdint>

#include "base/status.h"

namespace bulkhead::daemon {

// As root: user `bulkhead`, else `nobody`, no other groups. Then no new privileges, few descriptors, no dumps, dies with
// its parent (`parent_pid`: whom it must still have); no file may grow beyond most_file_bytes. Call before any request is read.
Status drop_privileges(int parent_pid, std::uint64_t most_file_bytes = 0);
// From here on only what serving needs: no open, no connect, no exec; a forbidden call fails with EPERM. Where seccomp
// is not built in the kernel, or under a sanitizer, it does nothing and says so by kNotReady.
Status confine();

}  // namespace bulkhead::daemon
