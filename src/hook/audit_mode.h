// The audit's part in the process's life: whether it may start, which mode binds it, and a fork.
#pragma once
#include "base/status.h"

namespace bulkhead::shm {
struct NodePage;
}

namespace bulkhead::hook {

// Before cuInit wakes the driver: under enforce a process without lanes does not start. Ok under off and observe.
[[nodiscard]] Status audit_may_start() noexcept;
// Each second, from the process's own thread: the operator may have changed the mode.
void audit_page(const shm::NodePage& page) noexcept;
// Each second, from the same thread: the pages of lanes that are in use.
void lanes_second() noexcept;
// In the child of a fork: it has no lanes.
void audit_forked_child() noexcept;

}  // namespace bulkhead::hook
