// The stand-in for NVIDIA's Multi-Process Service: a directory named by CUDA_MPS_PIPE_DIRECTORY that holds a file
// `bulkhead-sim-mps` is a running server, and the file says which one (by device and inode). Its clients' contexts
// are one group of the timeline. CUDA_MPS_ACTIVE_THREAD_PERCENTAGE, above 0 and up to 100 with decimals, limits a
// client's contexts to a share of the SMs, rounded down to the profile's mps_sm_unit, at least mps_sm_least.
// A file `bulkhead-sim-partitions` beside it is a server with static partitions, one a line, "UUID/ID SMS": the one that
// CUDA_MPS_SM_PARTITION names limits the client instead, and who names none of them can make no context.
#pragma once
#include <cstdint>

namespace bulkhead::sim {

struct MpsClient {
  std::uint64_t server = 0;  // 0: none, and then sms is what a unit has
  unsigned sms = 0;
  bool limited = false;
  bool refused = false;  // static partitions, and it names none: it can make no context
};
// From the environment, at cuInit; after open_machine().
MpsClient mps_client() noexcept;
// `text` null or not a percentage: all of `sms`.
unsigned mps_share(const char* text, unsigned sms, unsigned unit, unsigned least) noexcept;

}  // namespace bulkhead::sim
