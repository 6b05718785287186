// The MPS control daemons of this node: one for each group and user that has a spatial tenant, found again after a restart. A duty of the
// control loop. docs/spatial.md.
#pragma once
#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "daemon/mps/control.h"
#include "daemon/mps/partitions.h"

namespace bulkhead::daemon {

struct MpsKey {
  std::string group;
  std::uint32_t uid = 0;
  bool partitions = false;  // started with -S: another control daemon, in a directory of its own
  auto operator<=>(const MpsKey&) const =
      default;  // NOLINT(modernize-use-nullptr): not a zero of ours
};

class MpsManager final : public Duty {
 public:
  struct Outside {
    Poller* poller = nullptr;
    std::string directory;  // DIR
    std::uint32_t own_uid = 0;
    std::function<void(const MpsKey&, wire::EventKind, wire::Severity, const std::string& text)>
        post;
    // Which pairs have tenants in force, each with whether any of them has processes. Asked each turn.
    std::function<std::map<MpsKey, bool>()> in_force;
    // The tenants of a pair with partitions, and what each is to have. May be empty. Asked each turn; `books` says who has one.
    std::function<std::vector<PartitionWant>(const MpsKey&, const PartitionBooks& books)> wants;
  };
  explicit MpsManager(Outside outside);

  // [mps] as configured; a program without a slash is looked for on PATH. False in `enabled` ends what there is, once nothing runs in it.
  void configure(bool enabled, const std::string& program);
  // Looks for control daemons that an earlier one of us left: DIR/mps/UID/GROUP. At the start; reads the directory.
  void find_left();

  int tick(const Now& now) override;
  const char* name() const override { return "mps"; }

  // Whether a process is out of every server of ours, or cannot be got out: then it may be killed. The first call begins; ask again each round.
  [[nodiscard]] bool evicted(std::uint32_t pid, std::uint64_t start_ticks);
  // The same for processes that are left alive; nobody asks for the result.
  void evict_all(const MpsKey& key, const std::vector<std::uint32_t>& pids);
  void noted_end(const MpsKey& key, const std::string& who);

  [[nodiscard]] bool serving(const MpsKey& key) const;
  // A tenant's partition, of a pair that has them.
  [[nodiscard]] Partitions::State partition(const MpsKey& key, const std::string& tenant) const;
  [[nodiscard]] bool silent(const MpsKey& key) const;
  [[nodiscard]] std::vector<std::uint32_t> servers() const;
  // Whether a command is under way anywhere.
  [[nodiscard]] bool running() const;
  // Why a pair cannot have a control daemon at all; "": it can.
  [[nodiscard]] std::string problem(const MpsKey& key) const;

 private:
  struct Eviction {
    std::uint64_t start_ticks = 0;
    std::uint64_t began_ns = 0;
    unsigned left = 0;
  };
  struct Pair {
    std::unique_ptr<MpsControl> control;     // outlives what its commands answer to
    std::unique_ptr<Partitions> partitions;  // null: none
  };
  MpsControl& control(const MpsKey& key);
  int divide(const MpsKey& key, Pair& pair, const Now& now);
  void forget_books(const MpsKey& key);
  [[nodiscard]] std::string root_of(std::uint32_t uid) const;
  [[nodiscard]] bool make_root(std::uint32_t uid) const;

  Outside outside_;
  bool enabled_ = false;
  std::string asked_program_ = "nvidia-cuda-mps-control", program_;
  PartitionBooks books_;
  std::map<MpsKey, Pair> controls_;
  std::map<std::string, MpsKey> divided_;  // by GPU: the pair whose partitions it has in this turn
  std::set<MpsKey> refused_;               // told
  std::map<std::uint32_t, Eviction> evictions_;
  std::uint64_t now_ns_ = 0;
};

}  // namespace bulkhead::daemon
