// The daemon's node page as this process sees it (docs/formats/node.md). It is mapped at one address for as long as the process lives;
// when another daemon has written a new one, that comes to the same address.
#pragma once
#include "shm/node.h"

namespace bulkhead::hook {

// null: none binds this process. Any thread. What lies there may be another daemon's page at the next look.
[[nodiscard]] const shm::NodePage* node_page() noexcept;
// Maps the page that binds, if there is one and it is not the one mapped: at the binding, and when `adopted` has risen. In a user's
// own directory none binds before a daemon has adopted the region. Opens files; cold.
void follow_node() noexcept;
// In the child of a fork: the mapping did not come along.
void forget_node() noexcept;

}  // namespace bulkhead::hook
