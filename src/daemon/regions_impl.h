// Regions as the daemon keeps them: a Duty of the control loop that finds, adopts, scans and reaps.
//
// The reaper: each living slot whose process can be seen from our pid namespace gets a pidfd, found by the scan (its record
// lock tells the pid here) or told by a join; when the kernel says that the process ended, its slot is wiped in the same
// turn. What cannot be watched (no lock, no descriptor left, a namespace not below ours) falls back on the rule without
// a daemon, each second.
#pragma once
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "daemon/held_region.h"
#include "daemon/node_file.h"
#include "daemon/poller.h"
#include "daemon/regions.h"
#include "daemon/sealed.h"
#include "policy/compute/governor.h"
#include "wire/picture.h"

namespace bulkhead::daemon {

struct ReapFigures {
  std::uint64_t processes = 0, bytes = 0;
  std::uint64_t delay_sum_ns =
      0;  // from the turn's wake-up, which the death caused, to the free slot
  std::uint64_t delays[wire::kDelayBuckets] = {};  // as DaemonView::reap_delays
  std::uint64_t by_scan = 0;                       // of them, found without a pidfd
};

class TenantRegions : public Regions, public Duty {
 public:
  struct Outside {
    const shm::Dir* dir = nullptr;  // stays open as long as this lives
    Poller* poller = nullptr;
    std::function<Now()> clock;       // read now
    std::function<Now()> turn_began;  // when the loop woke; null: as clock
    // cuDeviceTotalMem of a device for regions made here, bytes; 0 or null: the limit itself.
    std::function<std::uint64_t(const std::uint8_t* uuid)> total_bytes_of;
  };
  static constexpr unsigned kScansPerTurn = 64;
  static constexpr unsigned kWatchesPerTurn = 8;  // each reads /proc of one process

  explicit TenantRegions(Outside outside);
  ~TenantRegions() override;
  // tenants/ is made, the page written, every region on disk adopted or left as on_found says. Once.
  [[nodiscard]] Status start(std::uint32_t page_flags);
  // shm::NodeFlag bits of the page, for programs that start from now on.
  void set_page_flags(std::uint32_t flags) { page_.set_flags(flags); }

  Status make(const wire::TenantRecord& record) override;
  Status set_limit(const std::string& name, const std::uint8_t* uuid, std::uint64_t bytes) override;
  Status set_compute(const std::string& name, const std::uint8_t* uuid,
                     const shm::ComputeRules& rules) override;
  Status set_priority(const std::string& name, wire::Priority priority) override;
  Status set_copy_rate(const std::string& name, std::uint32_t mb_s) override;
  std::vector<Beacon> hand_out(const std::string& name, bool writes) const override;
  Status set_enforcer(const std::string& name, std::uint32_t flags,
                      const std::string& group) override;
  // What self-tests saw of a GPU, for the page.
  void set_verdict(const std::uint8_t* uuid, const std::string& driver,
                   const shm::Verdict& verdict) {
    page_.set_verdict(uuid, driver, verdict);
  }
  Status set_on_fault(const std::string& name, wire::OnFault value) override;
  Status set_share_with(const std::string& name, const std::vector<std::string>& others) override;
  Status set_audit(const std::string& name, wire::AuditMode mode) override;
  Status remove(const std::string& name, bool force) override;
  std::uint64_t held(const std::string& name, const std::uint8_t* uuid) const override;
  bool view(const std::string& name, wire::TenantView& out) const override;
  std::vector<std::string> names() const override;
  Status watch(const std::string& name, std::uint32_t slot, std::uint32_t generation,
               UniqueFd pidfd, std::uint32_t pid) override;
  std::vector<Member> members() const override;

  void tell_samples(const Sample& sample) override;
  std::string may_be_of_faulty(std::uint32_t uid, std::uint64_t start_ticks) const override;

  // regions_audit.cc: what the tenant's library counted. False: there is no such region, or it is faulty.
  [[nodiscard]] bool audit_counts(const std::string& name, struct AuditCounts& out);

  // regions_time.cc, for the governor: every tenant's share of a device. Valid during the call.
  struct Timed {
    const std::string& tenant;
    const std::uint8_t* uuid;
    unsigned device;  // in its region
    const shm::ComputeRules& rules;
    const shm::Region& words;  // the tenant writes them
    policy::compute::TenantState& state;
    std::vector<policy::compute::ProcessState>& processes;
    shm::GivenRate* given;  // null: the page does not name it
    int descriptor;         // of its region's file
  };
  void each_timed(const std::function<void(const Timed&)>& fn);
  [[nodiscard]] shm::NodePage* page() { return page_.page(); }
  // A tenant came, or its share of time changed.
  std::function<void()> on_shares;

  int tick(const Now& now) override;
  const char* name() const override { return "regions"; }
  [[nodiscard]] const ReapFigures& reaped() const { return reaped_; }
  [[nodiscard]] std::size_t watched() const { return watched_; }
  // The tenant's beacon, for those that may write it; -1: none.
  [[nodiscard]] int beacon(const std::string& name) const;
  // The longest operation that any batch tenant was measured to take on a device on which there is a latency tenant, too;
  // 0: none, or no latency tenant. What a tenant says of itself.
  [[nodiscard]] std::uint64_t longest_batch_op_ns(const std::uint8_t* uuid) const;

 private:
  struct Slot;
  struct Lost;
  struct Tenant;
  using Tenants = std::map<std::string, std::unique_ptr<Tenant>>;
  struct Unwatched {
    std::string tenant;
    std::uint32_t slot, gen;
  };

  void name_partners();
  void unmake(const std::string& name);
  Tenant* find(const std::string& name) const;
  // regions_find.cc
  void discover();
  void look_at_names();
  bool consider(const std::string& name);  // false: not there yet, look again soon
  bool take_over(const std::string& name, HeldRegion held);
  void forget(const std::string& name);
  bool still_there(const Tenant& tenant) const;
  // regions_scan.cc
  void scan(Tenant& tenant, const Now& now);
  void scan_slots(Tenant& tenant, unsigned& suspicious);
  void slot_gone(Tenant& tenant, unsigned index);
  void assert_limits(Tenant& tenant);
  bool assert_shares(Tenant& tenant);
  void watch_size(Tenant& tenant);
  void add_up(Tenant& tenant, const Now& now);
  void add_time(Tenant& tenant, const Now& now);
  bool vanished(Tenant& tenant);
  void broken(Tenant& tenant, const std::string& why);
  void lose(Tenant& tenant, unsigned index);
  void look_at_lost(Tenant& tenant, const Now& now);
  // regions_sample.cc
  struct Figure;
  enum class Place : std::uint8_t { kTaken, kBeside, kOthers };
  using Uses = std::multimap<std::uint32_t, const Sample::Use*>;
  void compare(Tenant& tenant, const Uses& uses, std::uint64_t now_ns, std::vector<Figure>& out);
  Place place_of(Tenant& tenant, std::uint64_t now_ns);
  void tell_figures(Tenant& tenant, const std::vector<Figure>& figures, std::uint64_t now_ns);
  // regions_reap.cc
  void open_watch(const Unwatched& wanted);
  [[nodiscard]] bool is_ours(const HeldRegion::Owner& owner) const;
  [[nodiscard]] bool may_be(const HeldRegion::Owner& owner, std::uint32_t pid) const;
  Status add_watch(Tenant& tenant, unsigned slot, std::uint32_t gen, UniqueFd pidfd,
                   std::uint32_t pid, std::uint64_t start_ticks);
  void drop_watch(Slot& slot);
  void ended(const std::string& name, unsigned slot, std::uint32_t gen);
  void count_reaped(Tenant& tenant, std::uint64_t bytes);
  void tell(wire::EventKind kind, const Tenant& tenant, std::string text, std::uint32_t pid = 0,
            std::uint64_t bytes = 0);

  Outside outside_;
  Scratch scratch_;
  NodeFile page_;
  Tenants tenants_;
  std::uint64_t pid_namespace_ = 0;
  UniqueFd inotify_;
  bool names_changed_ = true;
  std::map<std::string, unsigned>
      awaited_;  // a directory without a region: how often it was looked at
  std::map<std::string, ino_t> ignored_;     // regions that are not ours to take, by inode
  std::map<std::string, uid_t> unreadable_;  // of them, those that are faulty: their owners
  bool reading_ = false;                     // a round of scans is under way
  shm::Identity self_;
  std::deque<Unwatched> unwatched_;
  std::set<std::string> dirty_;    // to be scanned in this turn
  std::deque<std::string> round_;  // to be scanned in this second
  std::uint64_t next_round_ns_ = 0;
  std::uint64_t next_look_ns_ = 0;
  std::uint64_t rounds_ = 0;
  std::size_t watched_ = 0;
  ReapFigures reaped_;
};

}  // namespace bulkhead::daemon
