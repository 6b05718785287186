#include "daemon/node_parts.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "daemon/config.h"
#include "daemon/node.h"
#include "daemon/sentinel.h"
#include "daemon/store.h"
#include "gpu/nvml.h"

namespace bulkhead::daemon {

namespace fs = std::filesystem;
using wire::EventKind;
using wire::Severity;

std::vector<wire::NodeDevice> devices_of(const Round& round) {
  std::vector<wire::NodeDevice> devices;
  for (const RoundDevice& from : round.devices) {
    wire::NodeDevice to{};
    std::memcpy(to.uuid, from.uuid.data(), sizeof to.uuid);
    std::strncpy(to.name, from.name.c_str(), sizeof to.name - 1);
    to.index = from.index;
    to.total_bytes = from.total_bytes;
    to.usable_bytes = from.total_bytes - std::min(from.total_bytes, from.reserved_bytes);
    devices.push_back(to);
  }
  return devices;
}

std::string find_simulator() {
  std::error_code none;
  const fs::path above = fs::read_symlink("/proc/self/exe", none).parent_path().parent_path();
  for (const fs::path& at :
       {above / "sim", above / "lib/bulkhead/sim", fs::path{"/usr/lib/bulkhead/sim"}}) {
    if (fs::exists(at / "libcuda.so.1", none)) return at.string();
  }
  return "";
}

Severity severity_of(EventKind kind) {
  switch (kind) {
    case EventKind::kTenantFaulty:
    case EventKind::kLimitTampered:
      return Severity::kWarning;
    case EventKind::kProcessReaped:
      return Severity::kNotice;
    default:
      return Severity::kInfo;
  }
}

std::map<DeviceId, std::uint64_t> measured_totals(const std::string& state) {
  std::map<DeviceId, std::uint64_t> out;
  const auto json =
      nlohmann::json::parse(read_state_file(state, "charge.json", kStateBytes), nullptr, false);
  if (!json.is_object() || !json.contains("gpus") || !json["gpus"].is_array()) return out;
  for (const auto& device : json["gpus"]) {
    if (!device.is_object() || !device.contains("uuid") || !device["uuid"].is_string()) continue;
    const auto uuid = gpu::parse_uuid(device["uuid"].get<std::string>());
    if (uuid && device.contains("total_bytes") && device["total_bytes"].is_number_unsigned()) {
      out[*uuid] = device["total_bytes"].get<std::uint64_t>();
    }
  }
  return out;
}

SightChild::Setup sight_setup(const Config& config, const std::string& directory) {
  SightChild::Setup setup;
  setup.directory = directory;
  setup.metrics_port = config.metrics_port;
  setup.console_port = config.console_port;
  setup.hami_names = config.hami_names;
  setup.dcgm_names = config.dcgm_names;
  return setup;
}

std::string condition_text(const std::vector<std::string>& restart,
                           const std::vector<std::string>& tenants,
                           const std::vector<std::string>& idle) {
  std::string out;
  const auto add = [&out](const char* what, const std::vector<std::string>& which) {
    if (which.empty()) return;
    if (!out.empty()) out += "; ";
    out += what;
    for (std::size_t i = 0; i < which.size(); ++i) out += (i == 0 ? " " : ", ") + which[i];
  };
  add("needs a restart:", restart);
  add("other GPUs or another owner need a reload after the last process has ended: tenant",
      tenants);
  add("nothing acts on it yet:", idle);
  return out;
}

std::string check_configuration(const std::string& file) {
  auto read = load_config(file);
  return read.ok() ? default_problem(*read, ::geteuid()) : read.problem;
}

}  // namespace bulkhead::daemon
