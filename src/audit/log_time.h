// How old segments are, by what the log itself says (docs/formats/log.md, 'Upkeep'): retention never reasons from a wall clock
// that the log does not support.
//
// Claim  an age is never above the time the log was written for or the machine ran, but for the gaps that are counted: one before
//        this start of at most `away`, one between two segments of at most segment_s + 5 h + `away`, and never above half of retain_s.
// Proof  an age is a sum of gaps, and of the steady clock since this start. A gap that is longer, or negative, counts nothing, and
//        nothing is ever added for it later.
// Price  a machine that was off for longer keeps its segments longer by that time.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace bulkhead::audit {

class LogTime {
 public:
  struct Begun {
    std::uint64_t first = 0;               // index
    std::optional<std::uint64_t> made_ns;  // of its journal's header; none: it cannot be read
  };
  // `retain_s` > 0: what ages are compared with. `segment_s`: how long a segment may be open; 0: a day is taken.
  LogTime(std::uint64_t retain_s, std::uint64_t segment_s) noexcept;

  // Once. `segments`: oldest first, the open one last. `found`: leaves that were there before this start, `last_ns` the time of the
  // last batch of them (0: none). `utc_ns`, `steady_ns`: now. Returns by how much the wall clock is ahead of the log if that is too
  // much to be believed, else 0.
  std::uint64_t begin(const std::vector<Begun>& segments, std::uint64_t found,
                      std::uint64_t last_ns, std::uint64_t utc_ns, std::uint64_t steady_ns);
  [[nodiscard]] bool begun() const noexcept { return begun_; }
  // At each look: time goes on, and a segment that was not there before begins now.
  void look(const std::vector<std::uint64_t>& segments, std::uint64_t steady_ns);
  // Nanoseconds since that segment began, at least; 0 for one that is not known.
  [[nodiscard]] std::uint64_t age_ns(std::uint64_t first) const noexcept;
  // What is believed of the time before a start.
  [[nodiscard]] std::uint64_t away_ns() const noexcept { return away_ns_; }

 private:
  [[nodiscard]] std::uint64_t counted(std::uint64_t from_ns, std::uint64_t to_ns,
                                      std::uint64_t most_ns) const noexcept;

  const std::uint64_t away_ns_, between_ns_, half_ns_;
  bool begun_ = false;
  std::uint64_t now_ns_ = 0, steady_ns_ = 0;      // now_ns_: 0 is where the oldest segment began
  std::map<std::uint64_t, std::uint64_t> began_;  // on the same axis
};

}  // namespace bulkhead::audit
