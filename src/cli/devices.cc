#include "cli/devices.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "cli/install.h"
#include "cli/probe.h"
#include "policy/size.h"

namespace bulkhead::cli {
namespace {

using Positions = std::vector<std::size_t>;

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> out;
  for (std::size_t from = 0; from <= text.size();) {
    const std::size_t to = std::min(text.find(',', from), text.size());
    std::string part = text.substr(from, to - from);
    part.erase(0, part.find_first_not_of(' '));
    part.erase(part.find_last_not_of(' ') + 1);
    out.push_back(std::move(part));
    from = to + 1;
  }
  return out;
}

bool one_kind(const std::vector<NvmlGpu>& gpus) {
  return std::all_of(gpus.begin(), gpus.end(),
                     [&](const NvmlGpu& g) { return g.name == gpus.front().name; });
}

}  // namespace

std::optional<Positions> visible_positions(const std::vector<NvmlGpu>& gpus, const char* visible,
                                           bool by_bus) {
  if (std::any_of(gpus.begin(), gpus.end(), [](const NvmlGpu& g) { return g.mig; })) return {};
  const bool ordered = by_bus || one_kind(gpus);
  Positions out;
  if (visible == nullptr) {
    if (!ordered) return {};
    for (std::size_t i = 0; i < gpus.size(); ++i) out.push_back(i);
    return out;
  }
  for (const std::string& token : split(visible)) {
    const bool index = !token.empty() && token.size() < 5 &&
                       token.find_first_not_of("0123456789") == std::string::npos;
    if (index && !ordered) return {};
    Positions hits;
    for (std::size_t i = 0; i < gpus.size(); ++i) {
      if (index ? std::strtoul(token.c_str(), nullptr, 10) == i
                : token.size() > 4 && policy::gpu_matches(token.c_str(), 0, gpus[i].uuid.c_str())) {
        hits.push_back(i);
      }
    }
    if (hits.empty()) break;
    // CUDA shows nothing at all for a GPU named twice; let the driver say what it does.
    if (hits.size() > 1 || std::find(out.begin(), out.end(), hits[0]) != out.end()) return {};
    out.push_back(hits[0]);
  }
  return out;
}

Outcome<std::vector<Calibration>> visible_devices(const DeviceChoice& choice, std::string& note) {
  using Out = Outcome<std::vector<Calibration>>;
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (choice.nvml != nullptr) {
    const auto gpus = choice.nvml->gpus();
    const bool by_bus = env_or_empty("CUDA_DEVICE_ORDER") == "PCI_BUS_ID";
    const auto kept = load_calibration(choice.state);
    const auto positions = visible_positions(gpus, visible, by_bus);
    std::vector<Calibration> out;
    for (const std::size_t at : positions.value_or(Positions{})) {
      const Calibration* c = find_calibration(kept, gpus[at].uuid, choice.nvml->driver_version());
      if (c != nullptr) out.push_back(*c);
    }
    if (positions && !positions->empty() && out.size() == positions->size()) return out;
  }
  const std::string nothing =
      visible == nullptr
          ? "the driver shows no GPU: see 'bulkhead doctor'"
          : fmt::format(
                "no GPU is visible with CUDA_VISIBLE_DEVICES='{}': name one by index or UUID",
                visible);
  if (visible != nullptr && *visible == '\0') return Out::because(nothing);
  auto measured = probe_devices(choice.simulator);
  if (!measured.ok()) {
    const bool none = measured.problem.find("NO_DEVICE") != std::string::npos;
    return none ? Out::because(nothing) : std::move(measured);
  }
  if (measured->empty()) return Out::because(nothing);
  note = keep_calibration(choice.state, *measured);
  return measured;
}

}  // namespace bulkhead::cli
