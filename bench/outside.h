// The view from outside: NVML of the same driver, in the bench's own process, which is in no tenant.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "bench/lab.h"

namespace bulkhead::bench {

class Outside {
 public:
  // False: no NVML; ok() stays false and every figure 0.
  bool open(const Lab& lab);
  [[nodiscard]] bool ok() const { return device_ != nullptr; }
  // Bytes NVML shows on device 0 for these processes together.
  [[nodiscard]] std::uint64_t used_by(const std::vector<pid_t>& pids) const;
  // Bytes in use on device 0, whoever holds them.
  [[nodiscard]] std::uint64_t used() const;

 private:
  struct Process {  // nvmlProcessInfo_t of NVML 11 and later
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
  };
  struct Memory {
    unsigned long long total, free, used;
  };
  void* device_ = nullptr;
  int (*processes_)(void*, unsigned*, Process*) = nullptr;
  int (*memory_)(void*, Memory*) = nullptr;
};

}  // namespace bulkhead::bench
