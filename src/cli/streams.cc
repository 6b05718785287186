#include "cli/streams.h"

#include <fmt/format.h>

#include <algorithm>

#include "gpu/selftest.h"
#include "policy/compute_spec.h"
#include "policy/spatial.h"
#include "policy/stream_sms.h"
#include "shm/node.h"

namespace bulkhead::cli {
namespace {

struct Seen {
  shm::Seen verdict = shm::Seen::kUnknown;
  unsigned sms = 0, unit = 0;  // 0: not told
};

// The page is the daemon's, whose file may not be ours to read; the file knows the numbers.
Seen seen_of(const Machine& machine, const shm::NodePage* page, const NvmlGpu& gpu) {
  Seen out;
  const auto uuid = parse_uuid(gpu.uuid);
  if (page != nullptr && uuid) {
    std::uint8_t bytes[shm::kUuidBytes];
    std::copy_n(uuid->begin(), sizeof bytes, bytes);
    out.verdict = shm::node_verdict(*page, bytes).green;
  }
  for (const gpu::SelfTest& t : gpu::load_self_tests(machine.state)) {
    if (t.uuid != gpu.uuid || t.driver != machine.nvml->driver_version()) continue;
    if (out.verdict == shm::Seen::kUnknown) out.verdict = t.green.verdict;
    out.sms = t.green_sms;
    out.unit = t.green_unit;
  }
  return out;
}

std::string percent(std::uint32_t x100) {
  char text[policy::kShareText];
  return policy::format_share(x100, false, text);
}

std::string gpu_problem(const Seen& seen, unsigned index, std::uint32_t x100) {
  if (seen.verdict == shm::Seen::kUnknown)
    return fmt::format(
        "--streams needs green contexts, which were not tested on GPU {} with this driver: run "
        "'bulkhead doctor --self-test' while it is idle",
        index);
  if (seen.verdict == shm::Seen::kNo)
    return fmt::format(
        "the self-test saw that green contexts do not bind on GPU {} ('bulkhead doctor' shows it): "
        "leave --streams out",
        index);
  if (seen.sms == 0 || policy::high_sms(x100, seen.sms, seen.unit) != 0) return {};
  return fmt::format(
      "{} of the {} multiprocessors of GPU {} is less than the {} a green context takes: ask for "
      "at "
      "least high={}",
      percent(x100), seen.sms, index, seen.unit,
      percent(policy::least_share_x100(seen.sms, seen.unit)));
}

}  // namespace

std::string streams_problem(const Machine& machine, const std::string& tenant,
                            const std::string& spec) {
  std::uint32_t x100 = 0;
  if (!policy::parse_stream_sms(spec.c_str(), &x100)) return policy::kStreamSmsFix;
  const auto map = shm::map_node(machine.dir);
  const auto* const page = map.ok() ? map->as<const shm::NodePage>() : nullptr;
  if (page != nullptr) {
    const auto how = shm::node_mode(*page, tenant.c_str());
    if (how.ok() && (how->flags & (shm::kTenantSpatial | shm::kTenantPartition)) != 0)
      return "--streams is not possible with a share that MPS holds: under a percentage the driver "
             "divides no further; use --mode temporal, or leave it out";
  }
  if (!machine.nvml) return "--streams needs NVML to know the GPU: " + machine.nvml_problem;
  for (const NvmlGpu& gpu : machine.nvml->gpus())
    if (std::string p = gpu_problem(seen_of(machine, page, gpu), gpu.index, x100); !p.empty())
      return p;
  return {};
}

}  // namespace bulkhead::cli
