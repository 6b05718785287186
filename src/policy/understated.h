// Whether a tenant's own count of its GPU time is far below what NVML shows of its processes: docs/compute.md, 'What a tenant
// understates'. Pure. NVML's figure is an estimate of whole percents, so only a large difference over a long time tells anything.
#pragma once
#include <cstdint>

namespace bulkhead::policy {

inline constexpr std::uint64_t kUnderstatedWindow_ms = 60'000;  // compared over so much time
inline constexpr std::uint64_t kUnderstatedFactor = 2;  // NVML's is more than so many times its own
inline constexpr std::uint64_t kUnderstatedPart = 10;   // ... and by a tenth of the window

enum class TimeNews : std::uint8_t { kNone, kUnderstated, kAgrees };

// One tenant on one device.
class Understated {
 public:
  // `span_ms` in which NVML answered: `nvml_ms` by it, `own_ms` by the tenant. News come when a window is over: each one that
  // understates is told if the one before was not, and the first that agrees after one that did.
  TimeNews add(std::uint64_t span_ms, std::uint64_t nvml_ms, std::uint64_t own_ms) noexcept {
    span_ms_ += span_ms;
    nvml_ms_ += nvml_ms;
    own_ms_ += own_ms;
    if (span_ms_ < kUnderstatedWindow_ms) return TimeNews::kNone;
    last_nvml_ms = nvml_ms_;
    last_own_ms = own_ms_;
    last_span_ms = span_ms_;
    const bool found =
        nvml_ms_ > own_ms_ * kUnderstatedFactor && nvml_ms_ - own_ms_ > span_ms_ / kUnderstatedPart;
    span_ms_ = nvml_ms_ = own_ms_ = 0;
    const bool was = told_;
    told_ = found;
    return found == was ? TimeNews::kNone : found ? TimeNews::kUnderstated : TimeNews::kAgrees;
  }
  std::uint64_t last_span_ms = 0, last_nvml_ms = 0,
                last_own_ms = 0;  // of the window that ended last

 private:
  std::uint64_t span_ms_ = 0, nvml_ms_ = 0, own_ms_ = 0;
  bool told_ = false;
};

}  // namespace bulkhead::policy
