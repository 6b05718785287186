// The last quarter of an hour, by device and by tenant and device, one point each five seconds. In the child's memory
// only: a restart begins anew. At most 16,384 series of 1.4 KiB; a node of 64 tenants on one GPU needs 93 KiB.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "wire/picture.h"

namespace bulkhead::daemon {

inline constexpr unsigned kHistoryPoints = 180;
inline constexpr unsigned kHistoryStep_s = 5;
inline constexpr std::uint32_t kNoPoint = 0xffff'ffff;

struct Series {
  std::array<std::uint32_t, kHistoryPoints> used_mib;
  std::array<std::uint32_t, kHistoryPoints> share_x100;
  std::uint64_t last_tick = 0;
};

class History {
 public:
  // Call at least each second; takes a point when a step has begun. `p` null or old: a gap.
  void sample(std::uint64_t mono_ns, const wire::Picture* p);

  using Key = std::pair<std::string, std::string>;  // tenant ("" = the device itself), GPU's UUID
  [[nodiscard]] const std::map<Key, Series>& series() const { return series_; }
  [[nodiscard]] std::uint64_t tick() const { return tick_; }  // of the newest point
  // Point `age` steps ago (0 = newest).
  [[nodiscard]] static std::uint32_t at(const std::array<std::uint32_t, kHistoryPoints>& ring,
                                        std::uint64_t tick, unsigned age) {
    return tick < age ? kNoPoint : ring[(tick - age) % kHistoryPoints];
  }

 private:
  void put(const Key& key, std::uint64_t used_bytes, std::uint32_t share_x100);
  void forget_old();

  std::map<Key, Series> series_;
  std::uint64_t tick_ = 0;
};

}  // namespace bulkhead::daemon
