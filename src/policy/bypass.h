// Who uses a GPU around the library: decides from one round of the sentinel and the tenants' books. Pure: no I/O, no
// clock; rounds are the clock (one a second).
//
// A process is explained if a slot has its pid and start time, or (its slot is in a pid namespace we cannot see into and
// no peer told its pid) if it is in a nested namespace and started in the same tick as such a slot's owner.
// Everything else that NVML lists, or that holds a device open, is a stray once it was seen in kGraceRounds rounds in a
// row: a process has a context a moment before its first heartbeat, and tools come and go.
//
// `bulkhead run` measures a new driver in a process of its own, of no tenant. It is passed over if it is our very file and
// holds little; since a user can load code into that program, each uid has a ration of rounds for it, which a process
// uses up one a round. What is left of a ration is the most that anybody hides behind it: at 2 GiB, a minute an hour.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace bulkhead::policy {

using DeviceUuid = std::array<std::uint8_t, 16>;

inline constexpr std::uint32_t kGraceRounds = 2;
inline constexpr std::uint32_t kDriftRounds = 3;
inline constexpr std::uint32_t kKillRounds = 3;
inline constexpr std::uint64_t kDriftBytes = 64ull << 20;
inline constexpr std::uint32_t kProbeRounds = 60;  // a uid's ration; one more each kProbeRefill
inline constexpr std::uint32_t kProbeRefill = 60;  // rounds
inline constexpr std::uint64_t kProbeBytes = 2ull << 30;  // two contexts and a little

using FileId = std::pair<std::uint64_t, std::uint64_t>;  // device, inode

// What /proc says of a process; all of it read between two equal readings of its start time.
struct SeenProcess {
  std::uint32_t pid = 0;
  std::uint32_t parent_pid = 0;
  std::uint32_t uid = 0xffff'ffff;  // effective
  std::uint64_t start_ticks = 0;
  std::string exe;          // resolved path; "" unknown
  FileId exe_id{};          // what runs, whatever that path is elsewhere; {0, 0} unknown
  std::string command;      // comm
  bool nested = false;      // in a pid namespace below ours
  bool at_secure = false;   // setuid and the like: the library does nothing there
  bool holds_node = false;  // has a device node (or the simulator's state) open
};
struct SeenUse {  // one process on one device, by NVML
  std::uint32_t pid = 0;
  DeviceUuid device{};
  std::uint64_t bytes = 0;
};
struct SeenRound {
  bool uses_known = false;  // NVML answered for every device
  std::vector<SeenUse> uses;
  std::vector<SeenProcess> processes;  // all in uses, and the holders found so far
};
struct BookedProcess {    // a slot
  std::uint32_t pid = 0;  // 0: not known in our namespace
  std::uint64_t start_ticks = 0;
  std::string tenant;
  std::vector<std::pair<DeviceUuid, std::uint64_t>>
      shown_bytes;  // booked less what NVML shows for nobody
};

struct BypassRules {
  std::uint32_t own_pid = 0;
  std::vector<std::string> own_programs;  // paths of ours that look at devices without using them
  FileId probe{};                         // our program that measures; {0, 0}: none is passed over
  std::uint32_t probe_rounds = kProbeRounds;
  bool kill = false;  // [policy] bypass = "kill"
  bool root_daemon = false;
  std::vector<std::string> allow_paths;  // [policy] bypass_allow
  std::vector<std::uint32_t> allow_uids;
  std::vector<std::uint32_t> mps_servers;  // pids that a control daemon of ours calls its servers
};
// Of NVIDIA's own services, by path and root's uid: persistence daemon, MPS control and server. A server of another user is one if it is in
// `mps_servers` too: what that user's control daemon says alone would excuse anything.
[[nodiscard]] bool is_vendor_service(const SeenProcess& p);
[[nodiscard]] bool is_allowed(const SeenProcess& p, const BypassRules& rules);
// Whether the rules permit to kill this process at all (sightings aside).
[[nodiscard]] bool may_kill(const SeenProcess& p, const BypassRules& rules);

enum class StrayKind : std::uint8_t { kUnregistered, kDrift, kHoldsNode };
struct Stray {
  StrayKind kind = StrayKind::kUnregistered;
  SeenProcess process;
  DeviceUuid device{};
  std::uint64_t bytes = 0;  // NVML's; for a drift what the books lack
  std::uint32_t sightings = 0;
  std::string tenant;  // of a drift
};
enum class StrayChange : std::uint8_t { kFound, kGone };
struct BypassResult {
  std::vector<Stray> strays;                           // that are reported now
  std::vector<std::pair<StrayChange, Stray>> changes;  // once per occurrence
  std::vector<SeenProcess> kill;                       // to be checked again behind a pidfd
};

class Bypass {
 public:
  explicit Bypass(BypassRules rules) : rules_(std::move(rules)) {}
  void set_rules(BypassRules rules) { rules_ = std::move(rules); }
  // One round. Without uses_known nothing is found, counted on or taken back.
  BypassResult look(const SeenRound& round, const std::vector<BookedProcess>& books);

 private:
  struct Key {
    StrayKind kind;
    std::uint32_t pid;
    std::uint64_t start_ticks;
    DeviceUuid device;
    auto operator<=>(const Key&) const = default;  // NOLINT(modernize-use-nullptr): clang-tidy 14
  };
  struct Known {
    Stray stray;
    bool reported = false;
    bool seen = false;
  };
  void sight(StrayKind kind, const SeenProcess& p, const DeviceUuid& device, std::uint64_t bytes,
             const std::string& tenant);
  void settle(BypassResult& out);
  void list_probes(const SeenRound& round);

  BypassRules rules_;
  std::map<Key, Known> known_;
  struct Ration {
    std::uint32_t used = 0;   // rounds
    std::uint32_t since = 0;  // rounds since one was given back
  };
  std::map<std::uint32_t, Ration> rations_;  // by uid; full ones are forgotten
  std::set<std::uint32_t> probes_;           // pids that are passed over in this round
};

}  // namespace bulkhead::policy
