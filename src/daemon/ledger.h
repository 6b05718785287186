// The ledger: what is promised to whom on this node. The one core behind every front end: register, update,
// unregister. Decides by policy (src/policy), acts through Regions. Control loop only.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "daemon/journal.h"
#include "daemon/regions.h"
#include "policy/mode.h"
#include "shm/node.h"
#include "wire/messages.h"
#include "wire/record.h"

namespace bulkhead::daemon {

enum class Source : std::uint8_t { kConfigured, kFrontEnd, kAdopted };

struct Entry {
  wire::TenantRecord record{};    // as it is in force
  wire::TenantRecord declared{};  // kConfigured: as the file said; `record` differs after an update
  Source source = Source::kFrontEnd;
  bool by_root = false;  // a front end of root's registered it: its cgroup outranks all
  std::int64_t since_unix_s = 0;
  // Of an ephemeral one: who registered it (`run`, in our namespace). It stays while that process lives. 0: unknown.
  std::uint32_t creator_pid = 0;
  std::uint64_t creator_start_ticks = 0;
};

// What a device can give, in bytes; the sentinel's last round and the calibration keep it fresh.
struct Capacity {
  std::uint8_t uuid[wire::kUuidBytes];
  std::string name;
  unsigned index = 0;
  std::uint64_t total_bytes =
      0;  // cuDeviceTotalMem (NVML's total less the driver's reserve until it is measured)
  std::uint64_t overhead_bytes = 0;  // held by processes of no tenant
  std::uint64_t reserve_bytes = 0;
};

// Who asks. From the kernel, never from a message.
struct Peer {
  std::uint32_t pid = 0;  // in our namespace; 0 if it is in one we cannot see
  std::uint32_t uid = wire::kNoId;
  std::uint32_t gid = wire::kNoId;
  std::uint64_t start_ticks = 0;
  std::string cgroup;  // path below the root, from /proc/PID/cgroup; "" unknown
};

struct Config;

// What a request came to: a Verdict but for its header.
struct Answer {
  Errc result = Errc::kOk;
  std::string tenant;
  wire::Arithmetic sums{};
  std::string text;       // one line: why and the fix, or a note
  bool may_wait = false;  // kFull, and it would fit without the others

  [[nodiscard]] bool ok() const { return result == Errc::kOk; }
};

// How the tenants' shares may be enforced (policy/mode.h): [mps], and what the self-tests saw.
struct ModeFacts {
  policy::ModeRules rules;
  std::function<shm::Verdict(const std::uint8_t* uuid)> verdict;  // may be empty: all unknown
};

struct LedgerOptions {
  std::uint32_t daemon_uid = 0;  // 0: a root daemon
  // Whether a living grant of the tenant is of the reserve's class. Unset: grants are not used here, and the operator's word is enough.
  std::function<bool(const std::string& tenant, const std::string& word)> has_class;
  std::string no_audit;  // why audit modes other than off are refused; "": they are not
  // May be empty. The journal; and who keeps STATE/tenants.json (its whole text, at most once a turn).
  std::function<void(wire::EventKind, const std::string& text, const EventFields&)> post;
  std::function<void(const std::string& json)> store;
  // Whether that process still runs; only tests set it. Must not wait.
  std::function<bool(std::uint32_t pid, std::uint64_t start_ticks)> alive;
  // Before a tenant's audit mode is what `mode` says (of a new tenant: at once after it was made). `by` null: the file.
  std::function<void(const std::string& name, wire::AuditMode mode, const Peer* by)> before_audit =
      {};
  // Before a tenant is removed while its processes run. May be empty.
  std::function<void(const wire::TenantRecord&)> before_force;
};

// Order at the start: set_capacities, restore, configure; the regions' first look at the disk (adopt for each); settle.
class Ledger {
 public:
  Ledger(Regions& regions, LedgerOptions options);

  // Whenever the sentinel or the calibration knows better. `reserve_bytes` is filled here.
  void set_capacities(std::vector<Capacity> devices);
  [[nodiscard]] const std::vector<Capacity>& capacities() const { return devices_; }
  // The tenants of an earlier daemon. False: not schema 1; nothing is taken then.
  bool restore(const std::string& json);
  // The file's rules and tenants. Returns its problem, one line, with nothing changed; else "". Call settle() next. What
  // `set` changed in a tenant stands until its lines in the file change.
  [[nodiscard]] std::string configure(const Config& config, const Now& now);
  // Asked again for every tenant at the next settle().
  void set_mode_facts(ModeFacts facts) {
    mode_facts_ = std::move(facts);
    unsettled_ = true;
  }
  // How a record's share is enforced now, and why not as asked.
  [[nodiscard]] policy::ModeRuling mode_of(const wire::TenantRecord& record) const;
  // Tenants whose mode is not what was asked: "NAME: why".
  [[nodiscard]] std::vector<std::string> other_modes() const;
  // Regions::on_found.
  [[nodiscard]] bool adopt(const wire::TenantRecord& found, const Now& now);
  // Makes the regions that are missing and sets the limits of those there are as the records say.
  void settle(const Now& now);
  // Regions::on_gone: an ephemeral tenant vanished.
  void gone(const std::string& name, const Now& now);
  // Each turn or at least each second: what adopt() left to do, ephemeral tenants without a creator, the store.
  void tick(const Now& now);
  // Whether something has changed since the last keep(): such a thing is not answered before it.
  [[nodiscard]] bool unstored() const noexcept { return unstored_ && options_.store != nullptr; }
  void keep();

  // `ahead`: whether somebody waits who came before for a device of that record.
  using Ahead = std::function<bool(const wire::TenantRecord&)>;
  [[nodiscard]] Answer enrol(const Peer& peer, const wire::RegisterRequest& request, const Now& now,
                             const Ahead& ahead);
  [[nodiscard]] Answer unregister(const Peer& peer, const std::string& name, bool force,
                                  const Now& now);
  [[nodiscard]] Answer update(const Peer& peer, const wire::TenantRecord& record,
                              std::uint32_t mask, const Now& now);
  // `pidfd` is the peer's.
  [[nodiscard]] Answer join(const Peer& peer, const wire::JoinRequest& request, UniqueFd pidfd,
                            const Now& now);
  // Whether the peer's process belongs to that tenant; what join() asks first.
  [[nodiscard]] Answer belongs_to(const Peer& peer, const std::string& name) const;
  // For a process of that tenant: the beacons that it is to have. kUntrusted, kNotFound: it is not one.
  [[nodiscard]] Errc beacons(const Peer& peer, const std::string& name,
                             std::vector<Regions::Beacon>& out) const;
  [[nodiscard]] Answer who(const Peer& peer) const;
  // The tenant a process belongs to whatever it asks: for strays. "" = none.
  [[nodiscard]] std::string belongs(const Peer& peer) const;

  [[nodiscard]] bool is_operator(const Peer& peer) const;
  [[nodiscard]] bool may_see(const Peer& peer, const std::string& tenant) const;
  [[nodiscard]] const std::map<std::string, Entry>& entries() const { return entries_; }
  // Sum of the tenants' floors on a device's time, hundredths of a percent.
  [[nodiscard]] std::uint32_t promised_x100(const std::uint8_t* uuid) const;
  // Sum of the tenants' limits.
  [[nodiscard]] std::uint64_t promised(const std::uint8_t* uuid) const;
  // Rises when room may have come free.
  [[nodiscard]] std::uint64_t freed() const { return freed_; }
  [[nodiscard]] std::string to_json() const;
  // Tenants whose region is still of the GPUs or the owner they had: made anew at the first settle() after their last process.
  [[nodiscard]] std::vector<std::string> waiting_for_their_end() const;

 private:
  struct Rules {
    bool users_may_create = false;
    std::uint64_t max_memory_bytes = 0;
    std::uint32_t max_memory_x100 = 0;
    std::uint32_t max_compute_x100 = 0;
    std::string default_tenant;
    std::string reserve_class;
    std::uint32_t reserve_x100 = 0;
  };
  [[nodiscard]] bool is_member(const Peer& peer, const std::string& name) const;
  [[nodiscard]] const Capacity* device(const std::uint8_t* uuid) const;
  [[nodiscard]] Answer check_room(const wire::TenantRecord& record, const std::string& name,
                                  bool waiting_helps) const;
  [[nodiscard]] Answer check_memory(const wire::TenantRecord& record, const std::string& name,
                                    bool waiting_helps) const;
  [[nodiscard]] Answer check_time(const wire::TenantRecord& record, const std::string& name,
                                  bool waiting_helps) const;
  [[nodiscard]] Answer check_raised(const wire::TenantRecord& before,
                                    const wire::TenantRecord& after) const;
  [[nodiscard]] Answer check_rights(const Peer& peer, const wire::TenantRecord& record) const;
  [[nodiscard]] Answer check_changes(const Peer& peer, const Entry& entry,
                                     const wire::TenantRecord& after, std::uint32_t mask) const;
  [[nodiscard]] Answer join_existing(const Peer& peer, const std::string& name,
                                     const wire::RegisterRequest& request) const;
  [[nodiscard]] Answer create(const Peer& peer, wire::TenantRecord record, const Now& now,
                              const Ahead& ahead);
  void apply(const std::string& name, const wire::TenantRecord& record, const Now& now);
  [[nodiscard]] bool outgrown(const std::string& name, const wire::TenantRecord& record) const;
  void bound_time(wire::TenantRecord& record, wire::DeviceGrant& grant) const;
  void withdraw(const std::string& name, const wire::TenantRecord& record);
  void drop(const std::string& name, const Now& now, const std::string& why);
  void compute_reserves();
  void changed(bool room);
  void post(wire::EventKind kind, const std::string& text, const EventFields& fields) const;

  Regions& regions_;
  LedgerOptions options_;
  void apply_mode(const std::string& name, const wire::TenantRecord& record);

  Rules rules_;
  ModeFacts mode_facts_;
  std::vector<Capacity> devices_;
  std::map<std::string, Entry> entries_;
  std::vector<std::string> file_order_;  // names of the configured, as they stand
  std::uint64_t freed_ = 0;
  bool unsettled_ = false;
  bool unstored_ = false;
  std::string next_checked_;  // whose creator is looked up in /proc next
  std::uint64_t checked_ns_ = 0;
};

}  // namespace bulkhead::daemon
