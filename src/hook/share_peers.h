// What tenants that are named both ways (`share_with`) have exported. docs/formats/sharing.md.
#pragma once
#include "shm/shares.h"

namespace bulkhead::hook {

// Reads the operator's page and the partners' files; cold, many system calls. False also if one cannot be read.
[[nodiscard]] bool peer_exports(shm::ShareKind kind, shm::ShareKey key) noexcept;

}  // namespace bulkhead::hook
