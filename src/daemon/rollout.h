// Audit modes while tenants run (docs/rollout.md): what the log is told of them, and rollouts that go from one to the next, watch, and
// fall back by themselves. The state lies in DIR/rollouts.json and STATE/rollouts.json; whoever asked for a rollout may be gone.
// Control loop only.
//
// Order of a step: the log's record is handed over, the state is kept, then the mode changes. Whoever dies between two of them leaves a
// record too many, never a change without its record.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "daemon/audit_counts.h"
#include "daemon/duty.h"
#include "daemon/journal.h"
#include "daemon/ledger.h"
#include "policy/rollout.h"
#include "wire/messages.h"

namespace bulkhead::daemon {

inline constexpr const char* kRolloutsFile = "rollouts.json";

// The counts when the mode in force began to be watched.
struct RolloutBase {
  std::uint64_t region = 0;
  std::uint64_t missed_calls = 0, missed_bytes = 0, refusals = 0, broken = 0;
  std::uint64_t held[shm::kAuditBuckets] = {};
};
struct Rollout {
  policy::RolloutRules rules;
  std::string service_file;
  policy::RolloutState state = policy::RolloutState::kRunning;
  std::uint32_t from = 0;  // the mode it began with
  std::uint32_t mode = 0;  // that it has put in force
  std::int64_t began_unix_ns = 0;
  std::uint32_t by_uid = 0, by_pid = 0;
  std::string why;      // the last step
  bool moving = false;  // kept before the mode changes: whoever finds it finishes the step
  RolloutBase base;
  // not kept: a daemon that starts watches the mode in force anew, against the counts of before
  std::uint64_t watched_from_ns = 0,
                away_from_ns = 0;  // since when no counts can be had; 0: they can
  policy::RolloutSeen seen;
};
// What the log was told of a tenant.
struct AuditTold {
  std::uint32_t mode = 0;
  std::uint64_t region = 0;
  std::uint64_t no_lane_calls = 0, no_lane_bytes = 0;
};
struct KeptRollouts {
  std::map<std::string, Rollout> rollouts;
  std::map<std::string, AuditTold> told;
};
[[nodiscard]] std::string to_json(const KeptRollouts& kept);
// False: not schema 1, or damaged; nothing of it counts then.
[[nodiscard]] bool from_json(const std::string& text, KeptRollouts& out);

struct ModeChange {
  std::string tenant, by, why;
  std::uint32_t was = 0, mode = 0, by_uid = wire::kNoId, by_pid = 0;
  unsigned lanes = 0;
};
// {"record":"mode",...}, {"record":"rollout",...}, {"record":"gap",...}: canonical JSON.
[[nodiscard]] std::string mode_record(const ModeChange& change, const AuditCounts& counts,
                                      std::int64_t unix_ns);
[[nodiscard]] std::string rollout_record(const std::string& tenant, const char* step,
                                         const Rollout& rollout, std::int64_t unix_ns);
[[nodiscard]] std::string no_lane_record(const std::string& tenant, std::uint64_t calls,
                                         std::uint64_t bytes, std::int64_t unix_ns);

struct RolloutsOutside {
  std::function<void(wire::EventKind, const std::string& text, const EventFields&)> post;
  // One record for the log, and how many of those handed over are in it.
  std::function<std::uint64_t(std::string json)> record;
  std::function<std::uint64_t()> recorded;
  std::function<void(const std::string&json)> keep_here, keep_state;
  // False: there is no such region now.
  std::function<bool(const std::string& tenant, AuditCounts&)> counts;
  std::function<unsigned(const std::string& tenant)> lanes;
  // Lanes and entries that no library writes, on the node; may begin anew with a daemon.
  std::function<std::uint64_t()> broken;
  // The problem, or "". Calls before_mode() in turn.
  std::function<std::string(const std::string& tenant, std::uint32_t mode)> set_mode;
  std::function<std::map<std::string, std::uint32_t>()> modes;  // of every tenant
  std::string refusal;  // why nothing can be audited here; "": it can
};
// The service's own figure in a file of one number, milliseconds. False: missing, no regular file, older than 15 s, or no number.
[[nodiscard]] bool read_service_figure(const std::string& file, std::int64_t now_unix_ns,
                                       std::uint64_t& ns);

class Rollouts : public Duty {
 public:
  explicit Rollouts(RolloutsOutside outside);
  // What a daemon before us kept: `here` outranks `state`. Then the log is told of modes that changed meanwhile.
  void start(const std::string& here, const std::string& state, const Now& now);
  // A tenant's mode is about to change, or its region was just made with it. `by` null: the configuration, or a rollout.
  void before_mode(const std::string& tenant, std::uint32_t mode, const Peer* by, const Now& now);

  // `peer` is an operator: the caller asked.
  [[nodiscard]] Answer request(const Peer& peer, const wire::RolloutRequest& request,
                               const Now& now);
  void show(const std::string& tenant, wire::RolloutReply& out) const;

  int tick(const Now& now) override;
  const char* name() const override { return "rollout"; }
  [[nodiscard]] const KeptRollouts& kept() const { return kept_; }

 protected:
  // Every step of a rollout is told here; a broken variant in the tests leaves it out.
  virtual void tell(const std::string& tenant, const char* step, const Rollout& rollout,
                    wire::EventKind kind, const Now& now);

 private:
  [[nodiscard]] Answer begin(const Peer& peer, const wire::RolloutRequest& request, const Now& now);
  [[nodiscard]] Answer stop(const Peer& peer, const std::string& tenant, const Now& now);
  void look(const std::string& tenant, Rollout& r, std::uint32_t mode, const Now& now);
  void step(const std::string& tenant, Rollout& r, const policy::RolloutAnswer& answer,
            const Now& now);
  void move(const std::string& tenant, Rollout& r, std::uint32_t to, const Now& now);
  void finish_move(const std::string& tenant, Rollout& r, const Now& now);
  void stop_one(const std::string& tenant, Rollout& r, const std::string& why, const Now& now);
  void take_base(const std::string& tenant, Rollout& r, const Now& now);
  void tell_no_lane(const std::string& tenant, AuditTold& told, const Now& now);
  void reconcile(const Now& now);
  void keep();

  RolloutsOutside outside_;
  KeptRollouts kept_;
  struct Untold {  // handed over, not known to be in the log
    std::uint64_t ticket = 0, calls = 0, bytes = 0;
  };
  std::map<std::string, Untold> untold_;
  std::string moving_;  // why, while a rollout changes a mode
  bool begun_ = false, changed_ = false;
};

}  // namespace bulkhead::daemon
