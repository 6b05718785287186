// The audit as bulkheadd has it: whether it is on, where its log and its numbers lie, who keeps the lanes. Control loop only.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "daemon/audit_lanes.h"
#include "daemon/config.h"
#include "wire/picture.h"

namespace bulkhead::daemon {

struct AuditPlaces {
  int dir_fd = -1;
  std::string dir, state;
};

class AuditPart {
 public:
  // Why audit modes other than off cannot be had with this configuration; "" if they can.
  [[nodiscard]] static std::string refusal(const Config& config);
  // If the configuration asks for it: opens the log, takes lanes back, starts the writer. The problem, or "".
  [[nodiscard]] std::string start(const Config& config, const AuditPlaces& places, Poller& poller,
                                  const std::function<void(bool good, const std::string&)>& tell,
                                  AuditWriter::Check check,
                                  std::function<std::string(std::uint32_t)> shim,
                                  std::function<bool(const std::string&)> enforced);
  // One record of the daemon's own, canonical JSON: before start() kept for it, and nothing if nothing is audited. Its number among those that
  // recorded() counts; 0: there is none.
  std::uint64_t record(std::string json);
  [[nodiscard]] std::uint64_t recorded() const;
  // What a reload changes at once; the rest (not_in_force()) needs a restart.
  void set_rules(const Config& config);
  void stop();
  void fill(wire::DaemonView& view) const;
  [[nodiscard]] AuditLanes* lanes() { return lanes_.get(); }
  [[nodiscard]] const AuditLanes* lanes() const { return lanes_.get(); }
  // Where the log lies; "" if there is none.
  [[nodiscard]] const std::string& log_directory() const { return directory_; }
  // What of the configuration that is in force otherwise needs a restart; null: nothing.
  [[nodiscard]] const char* not_in_force(const Config& config) const;

 private:
  [[nodiscard]] std::uint32_t reserve(std::uint32_t at_least);

  AuditPlaces places_;
  std::string directory_;
  std::string in_force_;            // what the log was opened with
  std::vector<std::string> early_;  // records of before start()
  bool started_ = false;
  std::unique_ptr<AuditLanes> lanes_;
};

}  // namespace bulkhead::daemon
