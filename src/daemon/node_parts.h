// What the daemon asks of its surroundings once, at its start, and how it ranks what it is told.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "daemon/config.h"
#include "daemon/sight/child.h"
#include "daemon/usage.h"
#include "wire/view.h"

namespace bulkhead::daemon {

struct Round;
// The devices of a first round, before anything is known of them but what NVML says.
[[nodiscard]] std::vector<wire::NodeDevice> devices_of(const Round& round);

inline constexpr std::size_t kStateBytes = 16u << 20;  // of a file of ours

// Where the simulated driver is installed; "" = nowhere.
[[nodiscard]] std::string find_simulator();
[[nodiscard]] wire::Severity severity_of(wire::EventKind kind);
// cuDeviceTotalMem of the devices that `run` has measured: charge.json, by UUID.
[[nodiscard]] std::map<DeviceId, std::uint64_t> measured_totals(const std::string& state);
[[nodiscard]] SightChild::Setup sight_setup(const Config& config, const std::string& directory);
// What of a configuration is not in force, one line, or "": keys that wait for a restart, tenants that wait for their end, and keys
// that nothing acts on yet.
[[nodiscard]] std::string condition_text(const std::vector<std::string>& restart,
                                         const std::vector<std::string>& tenants,
                                         const std::vector<std::string>& idle);

}  // namespace bulkhead::daemon
