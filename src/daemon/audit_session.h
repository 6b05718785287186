// One process that has lanes: what the control loop made for it and the writer thread reads. After start() of the writer
// the members belong to the threads named beside them.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "daemon/sealed.h"
#include "shm/lane.h"

namespace bulkhead::daemon {

inline constexpr const char* kOtherShim = "none";
inline constexpr const char* kUnknownShim = "unknown";  // it could not be looked at in time

struct AuditSession {
  // constant
  std::uint32_t serial = 0;
  std::uint32_t pid = 0;
  std::uint32_t uid = 0;
  std::uint64_t start_ticks = 0;
  std::string tenant;
  std::string exe;  // "" = not known any more
  std::string
      shim;  // SHA-256 of the signed library it has mapped; "none": another; "unknown"; "": nothing is signed here
  std::vector<std::string> devices;
  bool enforce = false;  // its mode when it began
  Sealed page;
  std::array<Sealed, shm::kLanes> lanes;  // the control loop fills one and then tells the writer

  // control loop
  UniqueFd pidfd;
  bool ending = false;
  // the control loop, before the writer is told of the end
  std::string why = "its process has ended";
  // writer
  struct Drain {
    shm::Lane* lane = nullptr;
    std::uint64_t expected = 0;
    bool faulty = false;
  };
  std::array<Drain, shm::kLanes> drains;
  bool dead = false;
  bool ended = false;

  [[nodiscard]] shm::LanePage& words() const { return *page.map.as<shm::LanePage>(); }
};

}  // namespace bulkhead::daemon
