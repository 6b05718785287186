// Writing a tenant's limits where its owner may cut the region short under us.
#pragma once
#include "shm/tenant.h"

namespace bulkhead::cli {

// For shm::set_limits(). kCorrupt: the file was cut short, and this tenant alone has the loss; as guard().
[[nodiscard]] Status write_limits_guarded(shm::Tenant& tenant,
                                          const shm::LimitChange& change) noexcept;

}  // namespace bulkhead::cli
