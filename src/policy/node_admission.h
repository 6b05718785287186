// Whether a tenant's limit still fits on a device of the node (docs/daemon.md, 'Admission on the node'). Pure; any thread.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace bulkhead::policy {

// Bytes on one device.
struct NodeSum {
  std::uint64_t total_bytes = 0;     // cuDeviceTotalMem
  std::uint64_t overhead_bytes = 0;  // held by processes of no tenant
  std::uint64_t reserve_bytes = 0;   // see reserve_kept()
  std::uint64_t promised_bytes = 0;  // to other tenants
  std::uint64_t asked_bytes = 0;
};

// What the reserve keeps from a tenant: nothing from one of its class, else what tenants of the class have not been
// promised of it yet (what they have is in `promised` already).
[[nodiscard]] std::uint64_t reserve_kept(std::uint64_t reserve_bytes,
                                         std::uint64_t promised_to_class,
                                         bool of_the_class) noexcept;
// The most that could be asked now; never wraps.
[[nodiscard]] std::uint64_t node_room(const NodeSum& sum) noexcept;
// promised + asked <= total - overhead - reserve.
[[nodiscard]] bool node_fits(const NodeSum& sum) noexcept;
// It could fit if no other tenant were there: waiting is of use.
[[nodiscard]] bool node_could_fit(const NodeSum& sum) noexcept;
// "12 GiB asked + 130 GiB promised to others > 139.8 GiB total - 1 GiB held outside tenants - 0 B reserve on GPU 0
// (GPU-...)": the sum, in one line without a fix.
[[nodiscard]] std::string node_sum_text(const NodeSum& sum, std::string_view device);

// Shares of one device's time, hundredths of a percent: floors, for what is borrowed is promised to nobody.
struct TimeSum {
  std::uint32_t promised_x100 = 0;  // to other tenants
  std::uint32_t asked_x100 = 0;     // 0 = no limit: nothing is promised
};
[[nodiscard]] std::uint32_t time_room(const TimeSum& sum) noexcept;
[[nodiscard]] bool time_fits(const TimeSum& sum) noexcept;
// "40% asked + 75% promised to others > 100% of the time of GPU 0 (GPU-...)".
[[nodiscard]] std::string time_sum_text(const TimeSum& sum, std::string_view device);
// "25%+".
[[nodiscard]] std::string share_text(std::uint32_t x100, bool borrow);

}  // namespace bulkhead::policy
