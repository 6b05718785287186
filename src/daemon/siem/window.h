// One window of leaves becomes events: exceptions one by one, transfers that were allowed or observed as sums.
//
// Claim  the sums of count and bytes over all events of a window are those of its transfers, for every combination of session,
//        operation, direction, devices, grant and decision; and the events of a window depend on its leaves, its first index
//        and its checkpoint alone.
// Proof  each transfer is added to exactly one sum or becomes one event; nothing else is read.
// Price  at most kMostEvents events in memory; a window ends early at that.
#pragma once
#include <map>
#include <memory>
#include <vector>

#include "audit/base64.h"
#include "daemon/siem/ocsf.h"

namespace bulkhead::daemon::siem {

class Window {
 public:
  static constexpr std::size_t kMostEvents = 1024;

  Window(const Ocsf& ocsf, std::uint64_t first, std::uint64_t checkpoint)
      : ocsf_(ocsf), first_(first), next_(first), checkpoint_(checkpoint) {}
  // Leaf next(). `context` is changed by records; `changed` is set if it was. False: not taken, close this window first (a boot of the
  // machine ends the sessions that the sums name).
  [[nodiscard]] bool add(audit::Bytes leaf, Context& context, bool& changed);
  // A leaf that cannot be read: the caller has said so by finding().
  void skip() { ++next_; }
  void add_finding(Event event) { events_.push_back(std::move(event)); }
  [[nodiscard]] bool full() const { return events_.size() + sums_.size() >= kMostEvents; }
  [[nodiscard]] std::uint64_t first() const { return first_; }
  [[nodiscard]] std::uint64_t next() const { return next_; }
  // Its events: single ones in the log's order, then the sums by key. Sessions that ended in it are forgotten then.
  [[nodiscard]] std::vector<Event> close(Context& context, bool& changed);

 private:
  void add_entry(const abi::AuditEntry& entry, const Context& context);

  const Ocsf& ocsf_;
  std::uint64_t first_, next_, checkpoint_;
  std::vector<Event> events_;
  std::map<SumKey, Sum> sums_;
  std::vector<nlohmann::json> ended_;
};

}  // namespace bulkhead::daemon::siem
