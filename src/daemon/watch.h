// The duty that brings sentinel, bypass rules, usage, journal and store together. Control loop only: it takes a finished
// round, compares it with the regions' members, posts events, kills if it is told to, samples usage, and hands new
// events to the store.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "daemon/checked_kill.h"
#include "daemon/journal.h"
#include "daemon/regions.h"
#include "daemon/sentinel.h"
#include "daemon/store.h"
#include "daemon/usage.h"
#include "policy/bypass.h"
#include "policy/understated.h"

namespace bulkhead::daemon {

struct WatchCounters {
  std::uint64_t rounds = 0, failures = 0;  // failures: rounds without NVML
  std::uint64_t found = 0, killed = 0;
  std::uint64_t events_lost = 0;  // could not be written to disk
};

class Watch final : public Duty {
 public:
  // All outlive this. `store` may be null (nothing is kept).
  Watch(Regions& regions, Journal& journal, Usage& usage, Store* store, policy::BypassRules rules,
        KillWorld& kills = real_kill_world());
  // Where rounds come from: Sentinel::take(), or a test's. Called each tick.
  std::function<std::optional<Round>()> next_round;
  // The servers of our MPS control daemons, by their word. May be empty.
  std::function<std::vector<std::uint32_t>()> mps_servers;
  // Before a process is killed, each round: whether what had to come first is done. May be empty.
  std::function<bool(const policy::SeenProcess&)> may_kill;
  // Whose a stranger is by cgroup or uid; may be empty.
  std::function<std::string(const policy::SeenProcess&)> tenant_of;

  // Call when ready_fd() of the sentinel is readable and when the last answer's milliseconds have passed.
  int tick(const Now& now) override;
  const char* name() const override { return "watch"; }
  void set_rules(policy::BypassRules rules) { rules_ = rules, bypass_.set_rules(std::move(rules)); }
  // Before the daemon ends: usage and events to the store.
  void finish(const Now& now);

  [[nodiscard]] const Round& round() const { return round_; }  // the newest; number 0: none yet
  [[nodiscard]] std::vector<wire::StrayView> strays() const;
  // NVML's part of the nodes' devices: uuid, name, index, flags, total, used, utilisation.
  [[nodiscard]] std::vector<wire::NodeDevice> devices() const;
  // Bytes that processes of no tenant hold on a device, by the newest round.
  [[nodiscard]] std::uint64_t overhead_bytes(const std::uint8_t* uuid) const;
  // Fills byte_seconds, held_ms, gpu_ms and share_x100 of each device of a view that Regions made.
  void fill(wire::TenantView& view) const;
  [[nodiscard]] WatchCounters counters() const;

 private:
  using TenantDevice = std::pair<std::string, DeviceId>;
  struct GpuUse {
    std::uint64_t ms = 0;
    std::uint32_t percent = 0;
  };
  void take(const Now& now, Round round);
  void tell_samples();
  void note_gpu_time(const std::map<std::uint32_t, std::string>& owners);
  void note_overhead(const std::map<std::uint32_t, std::string>& owners);
  void post_change(const Now& now, policy::StrayChange change, const policy::Stray& stray);
  void kill(const Now& now, const policy::SeenProcess& p);
  void spare(const Now& now, const policy::SeenProcess& p, const std::string& faulty);
  void sample_usage(const Now& now);
  std::optional<std::uint64_t> counted_ms(const TenantDevice& key, const wire::DeviceView& device);
  void compare_time(const Now& now, const TenantDevice& key, std::uint64_t nvml_ms,
                    std::uint64_t used_ns);  // watch_time.cc
  void watch_clock(const Now& now);
  void watch_store(const Now& now);
  void store_events();

  Regions& regions_;
  Journal& journal_;
  Usage& usage_;
  Store* store_;
  policy::BypassRules rules_;
  KillWorld& kills_;
  policy::Bypass bypass_;
  Round round_;
  std::vector<policy::Stray> strays_;
  std::map<TenantDevice, GpuUse> gpu_use_;  // since the last usage sample
  std::map<DeviceId, bool> gpu_time_known_;
  struct Counted {
    std::uint64_t seen_ns = 0, rest_ns = 0;
  };
  std::map<TenantDevice, Counted> counted_;  // the library's count, as it was last seen
  struct Compared {
    policy::Understated rule;
    std::uint64_t seen_ns = 0, rest_ns = 0, at_ns = 0;
    bool known = false;
  };
  std::map<TenantDevice, Compared> compared_;  // of limited tenants that are there
  std::map<TenantDevice, std::uint32_t> share_x100_;
  std::map<DeviceId, std::uint64_t> overhead_;
  std::map<std::uint32_t, std::uint64_t> tried_kill_;  // pid -> start: not tried again
  std::map<std::uint32_t, std::uint64_t> spared_;      // likewise: told once
  WatchCounters counters_;
  Now before_{};
  std::uint64_t sampled_ns_ = 0;
  bool store_failed_ = false;
  std::uint64_t lost_before_ = 0;
  std::uint64_t stored_id_ = 0;
};

}  // namespace bulkhead::daemon
