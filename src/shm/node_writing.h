// The writer's lock of one entry of the node page, for the files that write it: an entry is odd while this lives.
#pragma once
#include <atomic>

#include "base/kill_point.h"
#include "shm/node.h"

namespace bulkhead::shm {

class Writing {
 public:
  explicit Writing(NodeTenant& tenant) noexcept : tenant_(tenant) {
    tenant_.version.fetch_or(1, std::memory_order_acq_rel);  // pairs with node_limit()
    // release pairs with the acquire of device_count in node_limit(): what follows is seen with odd
    std::atomic_thread_fence(std::memory_order_release);
    BH_KILL_POINT("node.odd");
  }
  Writing(const Writing&) = delete;
  Writing& operator=(const Writing&) = delete;
  ~Writing() {
    BH_KILL_POINT("node.written");
    tenant_.version.fetch_add(1, std::memory_order_release);  // even; pairs with node_limit()
  }

 private:
  NodeTenant& tenant_;
};

}  // namespace bulkhead::shm
