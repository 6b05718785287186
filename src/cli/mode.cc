#include "cli/mode.h"

#include <fmt/format.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/clock.h"
#include "cli/ask.h"
#include "policy/spatial.h"
#include "shm/compute.h"
#include "shm/node.h"

namespace bulkhead::cli {
namespace {

constexpr std::uint64_t kPatience_ns = 30'000'000'000;
constexpr const char* kPercentage = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE";

// The lowest share of its GPUs, as the library takes it.
std::uint32_t lowest_share(const shm::NodePage& page, const char* name) {
  const unsigned index = shm::node_index(page, name);
  if (index == shm::kMaxTenants) return 0;
  const shm::NodeTenant& tenant = page.tenants[index];
  std::uint32_t lowest = 0;
  // relaxed: checked by node_compute()
  const std::uint32_t count = tenant.device_count.load(std::memory_order_relaxed);
  for (unsigned d = 0; d < std::min(count, shm::kMaxDevices); ++d) {
    std::uint8_t uuid[shm::kUuidBytes];
    std::memcpy(uuid, tenant.limits[d].uuid, sizeof uuid);
    const auto rules = shm::node_compute(page, name, uuid);
    if (!rules.ok() || !rules->limited()) continue;
    if (lowest == 0 || rules->floor_x100 < lowest) lowest = rules->floor_x100;
  }
  return lowest;
}

}  // namespace

std::uint32_t mps_state_of(const Machine& machine, const std::string& tenant) {
  const auto said = ask_list(machine);
  if (!said) return 0;
  const auto at = said->modes.find(tenant);
  return at == said->modes.end() ? 0 : at->second.mps_state;
}

std::string mode_without_daemon(wire::ComputeMode mode) {
  const bool by_mps = mode == wire::ComputeMode::kSpatial || mode == wire::ComputeMode::kPartition;
  if (!by_mps && mode != wire::ComputeMode::kSlice) return {};
  return fmt::format(
      "--mode {} needs the daemon, which knows what was tested here{}: start bulkheadd, or use "
      "auto or "
      "temporal",
      mode_text(static_cast<std::uint32_t>(mode)), by_mps ? " and keeps MPS" : "");
}

std::string enter_mode(const Machine& machine, const std::string& tenant) {
  const auto map = shm::map_node(machine.dir);
  if (!map.ok()) return {};
  const auto& page = *map->as<const shm::NodePage>();
  const auto how = shm::node_mode(page, tenant.c_str());
  if (!how.ok() || (how->flags & shm::kTenantSpatial) == 0) return {};
  std::uint32_t share = lowest_share(page, tenant.c_str());
  if (share == 0) return {};
  const std::uint64_t until = monotonic_ns() + kPatience_ns;
  std::uint32_t state = mps_state_of(machine, tenant);
  for (; state == 2 && monotonic_ns() < until; state = mps_state_of(machine, tenant)) {
    const timespec pause{0, 20'000'000};
    ::nanosleep(&pause, nullptr);
  }
  std::uint32_t asked = 0;
  if (policy::parse_percentage(std::getenv(kPercentage), &asked)) share = std::min(share, asked);
  char percent[policy::kPercentageText];
  ::setenv(kPercentage, policy::format_percentage(share, percent), 1);
  const std::string pipe =
      fmt::format("{}/mps/{}/{}/pipe", machine.dir.path, ::geteuid(), how->mps_group);
  ::setenv("CUDA_MPS_PIPE_DIRECTORY", pipe.c_str(), 1);
  if (state == 1) return {};
  return fmt::format(
      "MPS does not serve group {} ({}): the command is held in time; 'bulkhead events' says why",
      how->mps_group, mps_text(state));
}

std::string seen_text(const wire::NodeDevice& device) {
  std::string out;
  for (unsigned i = 0; i < wire::kSelfTests; ++i) {
    const std::uint32_t seen = wire::seen_of(device, i);
    if (seen == 0) continue;
    out += fmt::format("{}{} {}", out.empty() ? "" : ", ", wire::self_test_name(i),
                       wire::seen_name(seen));
  }
  return out;
}

const char* mode_text(std::uint32_t asked) { return wire::mode_name(asked); }
const char* enforcer_text(std::uint32_t enforcer) { return wire::enforcer_name(enforcer); }
const char* mps_text(std::uint32_t mps_state) { return wire::mps_state_name(mps_state); }

}  // namespace bulkhead::cli
