// The device profile: every figure the simulator answers with or charges by. Read once per process
// from a TOML file (subset: [section], key = integer | "string", comments) or from the profiles
// built into the library.
#pragma once
#include <cstddef>
#include <cstdint>

namespace bulkhead::sim {

inline constexpr unsigned kMaxUnits = 16;       // accounting units: GPUs, or MIG instances
inline constexpr unsigned kMaxLatencies = 128;  // lines in [latency_ns]

// Not `= ""`: g++ 12 then emits a constant-initialised array of these some bytes too short.
struct Latency {
  char name[64] = {};
  std::uint64_t ns = 0;
};

struct Profile {
  char name[64] = "simulated GPU";
  char key[48] = {};  // names the machine: profile name, count and a hash of the text
  std::uint64_t count = 1;
  char driver_version[32] = "0";
  char nvml_version[32] = "0";
  std::uint64_t cuda_version = 13000;

  std::uint64_t total_bytes = 0, nvml_total_bytes = 0;
  std::uint64_t sms = 1, cc_major = 9, cc_minor = 0;
  std::uint64_t sm_clock_khz = 1000000, memory_clock_khz = 1000000, memory_bus_bits = 256;
  std::uint64_t l2_bytes = 0, pci_device_id = 0, pci_subsystem_id = 0;
  std::uint64_t power_limit_mw = 0, power_idle_mw = 0, temperature_c = 0;

  // Time (BULKHEAD_SIM_TIMED=1).
  std::uint64_t slice_ns = 2'000'000, switch_ns = 180'000, queue_depth = 1021, mps_sm_unit = 2,
                mps_sm_least = 8;
  std::uint64_t shared_bytes_per_sm = 233'472, blocks_per_sm = 32;

  std::uint64_t mig_instances = 0, mig_total_bytes = 0, mig_sms = 0;  // instances 0: MIG is off
  char mig_profile[32] = {};

  // What things take from the device; profiles/h200.toml says what each is.
  std::uint64_t context_bytes = 0, context_hidden_bytes = 0, extra_context_bytes = 0;
  std::uint64_t module_bytes = 0, stream_bytes = 0, green_context_bytes = 0;
  std::uint64_t granularity_bytes = 2u << 20, slab_unit_bytes = 512, array_unit_bytes = 64u << 10;
  std::uint64_t pool_block_bytes = 32u << 20, managed_batch_bytes = 128u << 20, pitch_bytes = 512;
  std::uint64_t host_bytes_per_us = 50'000, device_bytes_per_us = 2'000'000;
  std::uint64_t default_stack_bytes = 1024, threads_per_sm = 2048;

  Latency latency[kMaxLatencies];
  unsigned latencies = 0;

  // Accounting units: GPUs, or MIG instances over all GPUs.
  [[nodiscard]] unsigned units() const noexcept {
    return static_cast<unsigned>(mig_instances != 0 ? count * mig_instances : count);
  }
  [[nodiscard]] std::uint64_t unit_bytes() const noexcept {
    return mig_instances != 0 ? mig_total_bytes : total_bytes;
  }
  [[nodiscard]] std::uint64_t unit_sms() const noexcept {
    return mig_instances != 0 ? mig_sms : sms;
  }
};

// Reads a profile's text into `out`. Returns nullptr, or a literal that says what is wrong; then
// `line` is the 1-based line. Unknown keys are errors, so that a misspelt figure is not silently the
// default.
const char* parse_profile(const char* text, std::size_t bytes, Profile& out,
                          unsigned& line) noexcept;

// Chooses by `spec`: "h200", "h200x2", "h200-mig", or a path with a '/' in it. nullptr or "": h200.
// Returns nullptr or what is wrong.
const char* load_profile(const char* spec, Profile& out) noexcept;

}  // namespace bulkhead::sim
