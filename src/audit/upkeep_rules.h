// What is done to a log beside writing it: packing, retention, cosigning. The words of it, for who configures and who shows.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace bulkhead::audit {

struct UpkeepRules {
  bool pack = true;
  std::uint64_t retain_s = 0;          // segments whose last entry is older go; 0: kept for ever
  std::uint64_t segment_s = 0;         // how long a segment may be open; 0: without a bound
  std::uint64_t retain_bytes = 0;      // of all files in segment/; the oldest go first; 0: no bound
  std::vector<std::string> witnesses;  // sockets
  unsigned look_ms = 10'000;           // between two looks at packing and retention
  unsigned witness_ms = 10'000;        // between two rounds of the witnesses
  int patience_ms = 2'000;             // with each of them
};

}  // namespace bulkhead::audit
