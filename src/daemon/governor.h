// The governor: what the tenants of a device want of its time, what each may use of it now, and the shared clock by which they
// charge. docs/compute.md, 'The governor'. A duty of the control loop: it looks each millisecond while on some device more than one
// has work or demand, and else once a second and when a tenant rings. What processes tell is read through guarded mappings and
// bounded (policy/compute/governor.h).
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/fd.h"
#include "daemon/duty.h"
#include "daemon/poller.h"
#include "daemon/regions_impl.h"
#include "policy/compute/governor.h"

namespace bulkhead::daemon {

class DeviceGovernor final : public Duty {
 public:
  static constexpr unsigned kMostSlots = 64;  // of a tenant, that are listened to
  static constexpr std::uint64_t kLook_ns = 1'000'000, kRest_ns = 20'000'000,
                                 kRestingLook_ns = 1'000'000'000;

  // Both outlive it.
  DeviceGovernor(TenantRegions& regions, Poller& poller);
  ~DeviceGovernor() override;
  [[nodiscard]] Status open();
  int tick(const Now& now) override;
  const char* name() const override { return "governor"; }
  // What slices of a device are known to be, for the page and the shared clock; 0: nobody knows.
  void set_slice(const std::uint8_t (&uuid)[shm::kUuidBytes], std::uint64_t slice_ns,
                 std::uint32_t loss_x1000);
  [[nodiscard]] bool resting() const { return resting_; }
  [[nodiscard]] std::uint64_t looks() const { return looks_; }

 private:
  struct Device {
    policy::compute::Governor policy;
    unsigned place = 0;                  // in the node page
    std::vector<shm::GivenRate*> given;  // of the tenants of this look, in order
    std::vector<std::uint32_t> floors;   // the same: of those that found no room
    bool begun = false;
  };
  struct Slices {
    std::uint64_t slice_ns = 0;
    std::uint32_t loss_x1000 = policy::compute::kSwitchLoss_x1000;
  };
  using Uuid = std::array<std::uint8_t, shm::kUuidBytes>;

  void look(std::uint64_t now);
  void hear(const TenantRegions::Timed& timed, std::uint64_t now);
  void tell(Device& device, const Uuid& uuid, std::uint64_t now);
  void watch(const TenantRegions::Timed& timed);
  void forget_others();
  void listen(bool on);

  TenantRegions& regions_;
  Poller& poller_;
  UniqueFd bells_;  // inotify: a process touches its region's file when it finds us resting
  std::map<std::string, std::pair<int, std::uint64_t>>
      watched_;  // watch, and the look that saw it last
  std::map<Uuid, Device> devices_;
  std::map<Uuid, Slices> slices_;  // of the devices that were measured
  std::uint64_t next_ns_ = 0, busy_ns_ = 0, listen_ns_ = 0, last_ns_ = 0, looks_ = 0;
  bool resting_ = true, listening_ = false, rung_ = false;
};

}  // namespace bulkhead::daemon
