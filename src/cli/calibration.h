// charge.json: what the driver takes on each GPU (docs/formats/calibration.md).
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "cli/say.h"
#include "shm/supervise.h"

namespace bulkhead::cli {

struct Calibration {
  std::string uuid;  // "GPU-..." or "MIG-..."
  std::string driver;
  std::string name;
  std::string measured;
  std::uint64_t total_bytes = 0;
  std::uint64_t vmm_granularity = 0;
  shm::ChargeFacts facts;
};

[[nodiscard]] std::string calibration_to_json(const std::vector<Calibration>& all);
// Empty if the text is not schema 1.
[[nodiscard]] std::vector<Calibration> calibration_from_json(const std::string& text);

// Empty if there is none that can be used.
[[nodiscard]] std::vector<Calibration> load_calibration(const std::string& directory);
// Adds or replaces `fresh`; makes the directory. The problem, or "" if it was kept.
[[nodiscard]] std::string keep_calibration(const std::string& directory,
                                           const std::vector<Calibration>& fresh);
[[nodiscard]] const Calibration* find_calibration(const std::vector<Calibration>& all,
                                                  const std::string& uuid,
                                                  const std::string& driver);

}  // namespace bulkhead::cli
