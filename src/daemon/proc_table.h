// What /proc says of the processes on the devices, kept from round to round: most seconds nothing of it changes, and to
// read it takes five files a process. Each round two questions are asked instead (which file runs, and whose is it): an
// exec, another user and an end are seen at once. The rest (parent, name) is read again each kEvery rounds. Who acts on it
// reads it anew (checked_kill). Sentinel thread only.
#pragma once
#include <cstdint>
#include <map>
#include <string>

#include "base/fd.h"
#include "policy/bypass.h"

namespace bulkhead::daemon {

class ProcTable {
 public:
  static constexpr std::uint64_t kEvery = 8;
  // Descriptors kept: at most that many, and at most an eighth of what we may have. The other processes are read each round.
  static constexpr std::size_t kMost = 1024;

  explicit ProcTable(std::string root);
  void begin_round() { ++round_; }
  // nullptr: it is gone. Valid until the next call.
  const policy::SeenProcess* get(std::uint32_t pid);
  // Those that were not asked for in this round are forgotten.
  void end_round();
  [[nodiscard]] std::uint64_t reads() const { return reads_; }  // of all files of a process

 private:
  struct Face {
    int error = 0;
    policy::FileId exe{};
    std::uint32_t uid = 0;  // the directory's: root's for a process that cannot be traced
    bool operator==(const Face&) const = default;
  };
  struct Kept {
    UniqueFd directory;
    Face face;
    policy::SeenProcess process;
    std::uint64_t asked = 0;
  };
  [[nodiscard]] static Face face_of(int directory);

  std::string root_path_;
  std::size_t most_ = kMost;
  UniqueFd root_;
  std::map<std::uint32_t, Kept> kept_;
  policy::SeenProcess other_;
  std::uint64_t round_ = 0, reads_ = 0;
};

}  // namespace bulkhead::daemon
