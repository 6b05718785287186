// Who may use what is idle: the rate in force of each tenant of a device, from what was promised and who wants it.
// docs/compute.md, 'Who may use what is idle'. Pure; called by the governor (the daemon's), one thread.
// Rates in hundredths of a percent of the device's time.
#pragma once
#include <cstdint>

namespace bulkhead::policy::compute {

inline constexpr std::uint64_t kDemand_ns = 4'000'000;   // a launch or a hold this recent is demand
inline constexpr std::uint64_t kBacklog_ns = 6'000'000;  // two slices of others and more
inline constexpr std::uint32_t kMaxSharers = 64;

struct Want {
  std::uint32_t floor_x100 = 0;
  std::uint32_t ceiling_x100 = 0;  // == floor: a hard cap
  std::uint32_t demand_x100 = 0;   // 0: wants nothing now; 10'000: all it can get
};

// What a tenant would use if nobody held it. In the last while it used `used_ns`, and for `empty_ns` it had nothing
// queued: a closed loop that uses u and thinks z would alone use u / (u + z). One that the bucket held, or that had work
// queued without a break for `queued_ns` >= kBacklog_ns, wants all it can get: what it used says nothing.
[[nodiscard]] constexpr std::uint32_t demand_x100(std::uint64_t used_ns, std::uint64_t empty_ns,
                                                  std::uint64_t queued_ns, bool was_held) noexcept {
  if (was_held || queued_ns >= kBacklog_ns || empty_ns == 0) return 10'000;
  const std::uint64_t d = static_cast<std::uint64_t>(static_cast<unsigned __int128>(used_ns) *
                                                     10'000 / (used_ns + empty_ns));
  return d == 0 ? 1 : static_cast<std::uint32_t>(d);
}

// Progressive filling: each has its floor; what the others leave goes to those who want more, by their floors, none
// above its ceiling or its demand. `n` <= kMaxSharers. A tenant that wants nothing is told its floor: it starts there.
inline void fill(const Want* want, std::uint32_t n, std::uint32_t* rate_x100) noexcept {
  std::uint64_t promised = 0;  // floors of those with demand
  for (std::uint32_t i = 0; i < n; ++i)
    if (want[i].demand_x100 != 0) promised += want[i].floor_x100;
  std::uint64_t most[kMaxSharers], have[kMaxSharers], left = 10'000;
  for (std::uint32_t i = 0; i < n; ++i) {
    // More was promised than there is: all are cut alike.
    const std::uint64_t floor = promised > 10'000 && want[i].demand_x100 != 0
                                    ? std::uint64_t{want[i].floor_x100} * 10'000 / promised
                                    : want[i].floor_x100;
    rate_x100[i] = static_cast<std::uint32_t>(floor == 0 ? 1 : floor);
    const std::uint64_t ceiling = want[i].ceiling_x100 < 10'000 ? want[i].ceiling_x100 : 10'000;
    most[i] = want[i].demand_x100 < ceiling ? want[i].demand_x100 : ceiling;
    have[i] = floor < most[i] ? floor : most[i];
    left -= have[i] < left ? have[i] : left;
  }
  for (std::uint32_t round = 0; round < n && left > 0; ++round) {
    std::uint64_t weights = 0, given = 0;
    for (std::uint32_t i = 0; i < n; ++i)
      if (have[i] < most[i]) weights += want[i].floor_x100;
    if (weights == 0) break;
    for (std::uint32_t i = 0; i < n; ++i) {
      if (have[i] >= most[i]) continue;
      const std::uint64_t part = left * want[i].floor_x100 / weights;
      const std::uint64_t room = most[i] - have[i];
      have[i] += part < room ? part : room;
      given += part < room ? part : room;
    }
    left -= given;
    if (given == 0) break;
  }
  for (std::uint32_t i = 0; i < n; ++i)
    if (have[i] > rate_x100[i]) rate_x100[i] = static_cast<std::uint32_t>(have[i]);
}

// One millisecond's step of the rate in force: rate + d (target - rate). d = 1000: at once. Always arrives.
[[nodiscard]] constexpr std::uint32_t dampened(std::uint32_t rate_x100, std::uint32_t target_x100,
                                               std::uint32_t dampening_x1000) noexcept {
  if (dampening_x1000 >= 1'000 || rate_x100 == target_x100) return target_x100;
  const std::int64_t gap = std::int64_t{target_x100} - rate_x100;
  const std::int64_t step = gap * (dampening_x1000 == 0 ? 1 : dampening_x1000) / 1'000;
  return static_cast<std::uint32_t>(rate_x100 + (step != 0 ? step : gap > 0 ? 1 : -1));
}

}  // namespace bulkhead::policy::compute
