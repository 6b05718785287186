// timeslice.json: how long a device's time slices are and what switching between them takes, by GPU and driver
// (docs/formats/timeslice.md). Written by `bulkhead doctor --self-test`, read by the daemon, whose governor tells it to all.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace bulkhead::gpu {

inline constexpr const char* kTimeSliceFile = "timeslice.json";

// What is believed: outside of these a measurement is none.
inline constexpr std::uint64_t kLeastSlice_ns = 50'000, kMostSlice_ns = 20'000'000;
inline constexpr unsigned kMostLoss_x1000 = 500, kLeastRounds = 8;

struct Rounds {
  std::uint64_t slice_ns = 0;
  unsigned loss_x1000 = 0;  // of the time, while two contexts have work
  unsigned count = 0;       // rounds seen; 0: nothing can be told, `why`
  const char* why = "";
};
// From the ends of equal short operations, ns, of one context that never rests beside another that does not rest either: where
// two ends lie far apart the other had its turn. Both have equal turns, so what is missing to twice one's own is switching.
[[nodiscard]] Rounds rounds_of(const std::vector<std::uint64_t>& ends_ns);

struct TimeSlice {
  std::string uuid, driver, measured;  // GPU-..., "580.159.04", "2026-11-22T14:00:00Z"
  std::uint64_t slice_ns = 0;          // 0: it could not be told, `evidence` says why
  unsigned loss_x1000 = 0;
  std::string evidence;
};
// Entries that are malformed or out of bounds are left out; text that is not schema 1 is as none at all.
[[nodiscard]] std::vector<TimeSlice> time_slices_from_json(const std::string& text);
[[nodiscard]] std::string time_slices_to_json(const std::vector<TimeSlice>& all);
// The directory's file; none: empty.
[[nodiscard]] std::vector<TimeSlice> load_time_slices(const std::string& state);
// Replaces the entry of the same GPU and driver, by rename. The problem, or "".
[[nodiscard]] std::string keep_time_slice(const std::string& state, const TimeSlice& fresh);

}  // namespace bulkhead::gpu
