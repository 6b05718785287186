// How a tenant's share is enforced, for `run`, `set` and `status`: what the node page says, and what the command's environment needs.
// docs/spatial.md.
#pragma once
#include <string>

#include "cli/machine.h"
#include "wire/view.h"

namespace bulkhead::cli {

// Why this mode cannot be had without a daemon, in one line; "" if it can.
[[nodiscard]] std::string mode_without_daemon(wire::ComputeMode mode);
// Of a tenant that the page calls spatial: waits until MPS serves its group, then puts the group's directory and the lower percentage into
// our own environment, for the command. Nothing for any other tenant. A warning, if the processes will be held in time instead; "" else.
[[nodiscard]] std::string enter_mode(const Machine& machine, const std::string& tenant);

// wire::TenantView::mps_state as the daemon tells it; 0: it does not say.
[[nodiscard]] std::uint32_t mps_state_of(const Machine& machine, const std::string& tenant);

[[nodiscard]] const char* mode_text(std::uint32_t asked);         // of wire::ComputeMode
[[nodiscard]] const char* enforcer_text(std::uint32_t enforcer);  // of wire::TenantView
// "spatial works, slice no": what self-tests saw; "": nothing was tested.
[[nodiscard]] std::string seen_text(const wire::NodeDevice& device);
[[nodiscard]] const char* mps_text(std::uint32_t mps_state);  // the same

}  // namespace bulkhead::cli
