// The partitions of one control daemon that was started with -S: made, confirmed, taken away, found again after a restart.
// docs/spatial.md "Partitions" is the protocol. Control loop only; never waits: each command's answer begins the next.
//
// Claim  a tenant has at most one partition in the books, of the size that lspart showed; after any kill what nobody has in his books is removed.
// Proof  nothing is done but after a table that was understood; an id is in the books only after a table that lists it; an id that is
//        listed and in no book, and not in use, is removed before anything is made.
// Price  one lspart more for each change.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "daemon/duty.h"
#include "daemon/mps/command.h"
#include "daemon/mps/partition_books.h"
#include "policy/partition.h"
#include "wire/view.h"

namespace bulkhead::daemon {

// What a tenant in mode partition is to have.
struct PartitionWant {
  std::string tenant;
  std::string gpu;  // its whole UUID, GPU-...
  std::uint32_t chunks = 0, chunk_sms = 0;
  bool busy = false;    // it has processes: what it has is not changed
  std::string blocked;  // why it gets none, before MPS is asked; "": it may
  bool operator==(const PartitionWant&) const = default;
};

class Partitions {
 public:
  enum class State : std::uint8_t { kPending, kReady, kRefused };
  static constexpr std::uint64_t kRefusedAgain_ns = 5'000'000'000;
  static constexpr std::uint64_t kInUseAgain_ns = 1'000'000'000;
  static constexpr std::uint64_t kMostPause_ns = 60'000'000'000;
  // A command for the control daemon's standard input.
  using Order = std::function<void(const std::string& input, MpsCommand::Done done)>;
  using Post = std::function<void(wire::EventKind, wire::Severity, const std::string& text)>;

  Partitions(std::string group, std::uint32_t uid, PartitionBooks& books, Order order, Post post)
      : group_(std::move(group)),
        uid_(uid),
        books_(books),
        order_(std::move(order)),
        post_(std::move(post)) {}

  // Each turn: what is to be; while the control daemon serves. When it is to be called again, ms; -1: at an event only.
  int tick(const Now& now, const std::vector<PartitionWant>& wants);
  // The control daemon does not serve: what it had must be seen again before it is in force.
  void away() {
    confirmed_ = false;
    failed_.clear();
    refused_ns_.clear();
    adding_.clear();
    pause_ns_ = due_ns_ = 0;
  }
  // A process ended, or another reason to look.
  void look() { due_ns_ = 0; }
  [[nodiscard]] State state(const std::string& tenant) const;
  // The GPU that a partition is being made of and not yet in the books; "": none.
  [[nodiscard]] const std::string& adding() const { return adding_; }
  // Nobody wants one and none is there, or it cannot be known: the control daemon may be ended.
  [[nodiscard]] bool clear() const {
    return wants_.empty() && !asking_ && !again_ && (empty_ || !failed_.empty());
  }

 private:
  struct Added {  // and not listed yet
    PartitionWant want;
    std::string id;
  };
  void ask();
  void took(const MpsReply& reply);
  void act(const policy::PartitionTable& table);
  void check_books(const policy::PartitionTable& table);
  void tell_removed(const policy::PartitionTable& table);
  void settle_added(const policy::PartitionTable& table);
  bool remove_one(const policy::PartitionTable& table);
  bool add_one(const policy::PartitionTable& table);
  void remove(const std::string& gpu, const std::string& id, const std::string& of);
  void refuse(const PartitionWant& want, const std::string& why, bool tell = true);
  void fail(const std::string& why);
  void rest(std::uint64_t for_ns);
  [[nodiscard]] const PartitionWant* want_of(const std::string& tenant) const;
  [[nodiscard]] bool ours(const shm::PartitionBook& book) const;
  [[nodiscard]] bool wanted_as_is(const std::string& tenant, const shm::PartitionBook& book) const;
  [[nodiscard]] std::string owner_of(const std::string& gpu_part, const std::string& id) const;
  [[nodiscard]] std::string name() const;

  std::string group_;
  std::uint32_t uid_ = 0;
  PartitionBooks& books_;
  Order order_;
  Post post_;
  std::vector<PartitionWant> wants_;
  std::vector<Added> added_;                     // at most one
  std::set<std::string> tried_;                  // ids whose removal was ordered in this round
  std::map<std::string, std::string> removing_;  // and what is told when they are gone
  std::set<std::string> kept_;                   // that were still listed after it: told
  std::map<std::string, std::uint64_t> refused_ns_;
  bool asking_ = false;     // a round is under way
  bool again_ = false;      // something changed meanwhile
  bool empty_ = true;       // the last table showed no partition
  bool confirmed_ = false;  // a table was understood since the control daemon serves
  bool started_server_ = false;
  bool told_failed_ = false;
  std::string failed_, adding_;
  std::uint64_t now_ns_ = 0, due_ns_ = 0, pause_ns_ = 0;
};

}  // namespace bulkhead::daemon
