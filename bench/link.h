// What the bench and one of its workers share: a block in a memfd for figures, and a socket for turns. A byte on the
// socket orders the block's contents between the two (the kernel's own barrier), so the block is plain memory.
#pragma once
#include <cstdint>
#include <map>
#include <string>

#include "bench/ticks.h"

namespace bulkhead::bench {

inline constexpr std::uint64_t kMiB = 1ull << 20;
inline constexpr std::uint64_t kGiB = 1ull << 30;

inline constexpr int kBlockFd =
    198;  // descriptors a worker inherits; high, so that no library's own collide
inline constexpr int kSocketFd = 199;
inline constexpr unsigned kValues = 48;
inline constexpr unsigned kHistograms = 4;

// One call that the race case remembers.
struct LogEntry {
  std::uint64_t begin, end;  // ticks
  std::uint64_t bytes;
  enum Kind : std::uint64_t { kGranted, kRefused, kFreed } kind;
};
inline constexpr unsigned kLogEntries = 1u << 16;

struct Block {
  std::int32_t pid;
  std::int32_t code;  // the driver's code that ended the case; 0 = none
  char error[120];    // what failed, empty if nothing did
  double value[kValues];
  Histogram histogram[kHistograms];
  std::uint64_t log_count;
  LogEntry log[kLogEntries];
};

// key=value arguments of a case.
class Params {
 public:
  void set(const std::string& key, const std::string& value) { map_[key] = value; }
  void set(const std::string& key, std::uint64_t value) { map_[key] = std::to_string(value); }
  [[nodiscard]] std::string text(const std::string& key, const std::string& missing = "") const;
  [[nodiscard]] std::uint64_t number(const std::string& key, std::uint64_t missing = 0) const;
  [[nodiscard]] const std::map<std::string, std::string>& all() const { return map_; }

 private:
  std::map<std::string, std::string> map_;
};

}  // namespace bulkhead::bench
