// How often one peer or tenant may be told of. What others can provoke at will (a refused request, a region full of rubbish,
// tenants that are made and removed) would else fill the journal and push everything else out of it. Of each (kind, uid, tenant)
// the first burst_of(kind) in a window of kWindow_ns are events; the others are counted, and the window's end is one event that says how many. Nothing is lost from a sum:
// events + what the summaries count = what was reported. Control loop only; no clock of its own.
#pragma once
#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "daemon/duty.h"
#include "wire/view.h"

namespace bulkhead::daemon {

class EventLimit {
 public:
  static constexpr std::uint64_t kBurst = 4;
  static constexpr std::uint64_t kBurstGranted =
      16;  // of what was asked for and done: an operator's script is not a flood
  static constexpr std::uint64_t kWindow_ns = 10'000'000'000;
  // A peer chooses the names it asks for: beyond these bounds what is reported shares one window, of its uid or of everybody.
  static constexpr std::size_t kMostNamesOfOneUid = 8;
  static constexpr std::size_t kMostWindows = 64;  // of a kind: one kind's flood crowds no other's

  struct Key {
    wire::EventKind kind;
    std::uint32_t uid;
    std::string tenant;                            // empty also for those that share a window
    auto operator<=>(const Key&) const = default;  // NOLINT(modernize-use-nullptr): clang-tidy 14
  };
  struct Held {  // what a window kept back
    Key key;
    wire::Severity severity;
    std::uint64_t count;
    std::uint64_t span_ns;  // of the window
  };

  [[nodiscard]] static bool limited(wire::EventKind kind) { return burst_of(kind) != 0; }
  [[nodiscard]] static std::uint64_t burst_of(wire::EventKind kind);  // 0: without a limit
  // True: it is an event. False: it is counted.
  [[nodiscard]] bool admit(const Now& now, const Key& key, wire::Severity severity);
  // The windows that have ended, those that kept something back; `all`: the others too (the daemon ends).
  [[nodiscard]] std::vector<Held> due(const Now& now, bool all = false);

 private:
  struct Window {
    std::uint64_t since_ns = 0, admitted = 0, held = 0;
    wire::Severity severity = wire::Severity::kInfo;  // the worst
  };
  [[nodiscard]] Key window_of(const Key& key) const;

  std::map<Key, Window> windows_;
};

}  // namespace bulkhead::daemon
