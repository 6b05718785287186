// The sentinel: a thread that once a second asks NVML who is on each device and looks through /proc for who holds one
// open. It hands a finished round over as a value; it touches no region and no record. A driver that hangs hangs this
// thread and nobody else.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "daemon/duty.h"
#include "daemon/proc_scan.h"
#include "daemon/proc_table.h"
#include "gpu/nvml.h"
#include "policy/bypass.h"
#include "wire/view.h"

namespace bulkhead::daemon {

struct RoundDevice {  // a GPU, or an instance of one that is split
  policy::DeviceUuid uuid{};
  std::string name;
  unsigned index = 0;
  bool mig = false;
  std::uint64_t total_bytes = 0;     // NVML's
  std::uint64_t reserved_bytes = 0;  // the driver's own part of it
  std::uint64_t used_bytes = 0;      // device-wide
  std::uint32_t utilisation_x100 = wire::kUnknownShare;
  bool gpu_time_known = false;  // the driver says who used it
};
struct RoundGpuTime {
  std::uint32_t pid = 0;
  policy::DeviceUuid device{};
  std::uint64_t ms = 0;  // used since the round before
  std::uint32_t percent = 0;
};
struct Round {
  std::uint64_t number = 0;  // 1, 2, ...
  std::uint64_t mono_ns = 0;
  std::uint64_t span_ns = 0;  // since the round before; 0 for the first
  bool nvml = false;
  std::string driver;   // its version; "" without NVML
  std::string problem;  // why there is no NVML, one line
  std::vector<RoundDevice> devices;
  std::vector<RoundGpuTime> gpu_times;
  policy::SeenRound seen;
};

struct SentinelOptions {
  std::string nvml_directory;   // "" = as the dynamic linker finds it
  std::string simulator_state;  // DIR/sim; used if that NVML is the simulated one
  std::string proc = "/proc";
  unsigned period_ms = 1000;
};

// One round after the other, in the caller's thread.
class Looker {
 public:
  explicit Looker(SentinelOptions options) : options_(std::move(options)), table_(options_.proc) {}
  Round look(const Now& now);

 private:
  void open_nvml();
  void list_devices();
  void look_at_devices(Round& round);
  void look_at_gpu_time(Round& round, const gpu::NvmlGpu& gpu, RoundDevice& device);
  void look_at_processes(Round& round);

  SentinelOptions options_;
  std::optional<gpu::Nvml> nvml_;
  std::string problem_;
  std::vector<gpu::NvmlGpu> gpus_;
  std::optional<ProcScan> scan_;
  ProcTable table_;
  std::uint64_t rounds_ = 0;
  Now before_{};
};

class Sentinel {
 public:
  static std::unique_ptr<Sentinel> start(SentinelOptions options);
  Sentinel(const Sentinel&) = delete;
  Sentinel& operator=(const Sentinel&) = delete;
  // Ends the thread; one that hangs in the driver for two seconds is left behind (the process is about to end).
  ~Sentinel();
  // Readable (eventfd) when a round waits. Level triggered until take().
  [[nodiscard]] int ready_fd() const;
  // A round is wanted now; without, one comes somewhat later than `period_ms` after the last. Any thread; never waits for
  // the driver.
  void ask();
  // The newest round, once. Never waits for the thread.
  [[nodiscard]] std::optional<Round> take();

 private:
  struct Shared;
  Sentinel() = default;
  std::shared_ptr<Shared> shared_;
};

}  // namespace bulkhead::daemon
