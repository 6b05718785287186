// Usage: what each tenant held of each device over time, in rows of at most one hour (docs/formats/usage.md). Control
// loop only; no I/O of its own: what is to be written goes to two functions.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "daemon/duty.h"
#include "wire/lines.h"

namespace bulkhead::daemon {

using DeviceId = std::array<std::uint8_t, wire::kUuidBytes>;

inline constexpr std::uint64_t kUsageGap_ns = 5'000'000'000;  // not seen for longer: not charged
inline constexpr std::int64_t kUsageJump_ns = 2'000'000'000;
inline constexpr std::uint64_t kUsageWrite_ns = 10'000'000'000;
inline constexpr std::size_t kUsageRowsKept = 16'384;  // in memory; then they are compacted

struct UsageSinks {
  std::function<void(std::string line)> append;      // one finished row
  std::function<void(std::string content)> replace;  // all running rows
};
struct UsageSample {  // one tenant on one device, now
  std::string tenant;
  DeviceId device{};
  std::uint64_t used_bytes = 0;
  bool held = false;                  // a living process holds memory
  std::uint64_t refused_total = 0;    // rises; of the tenant, given with its first device only
  std::uint64_t gpu_ms = ~0ull;       // used since the sample before; ~0 = not measured
  std::uint64_t counted_ms = 0;       // the part of it that the library counted
  std::uint64_t moved_total = ~0ull;  // the tenant's sum on the device, rises; ~0 = not measured
};
struct UsageTotals {  // since the tenant was first seen
  std::uint64_t byte_seconds = 0, held_ms = 0, gpu_ms = ~0ull, counted_ms = 0;
  std::uint64_t moved_bytes = ~0ull;
};

class Usage {
 public:
  explicit Usage(UsageSinks sinks) : sinks_(std::move(sinks)) {}
  // What an earlier daemon left, before the first sample: the text of usage.open.json and the lines of usage.jsonl. A
  // row that is in both is finished. Rows of the hour that still runs go on.
  void restore(const Now& now, const std::string& open_text,
               const std::vector<std::string>& finished_lines);
  // Once a second. Every tenant and device that is there; who is left out holds nothing.
  void sample(const Now& now, const std::vector<UsageSample>& samples);
  // Writes the running rows now (before the daemon ends).
  void write_now();
  // Finished rows, oldest first, then the running ones; those that reach beyond `since_unix_s`.
  [[nodiscard]] std::vector<wire::UsageRow> rows(std::int64_t since_unix_s) const;
  [[nodiscard]] UsageTotals totals(const std::string& tenant, const DeviceId& device) const;
  [[nodiscard]] std::uint64_t gaps() const { return gaps_; }  // readings more than 5 s apart

 private:
  using Key = std::pair<std::string, DeviceId>;
  struct Running {
    wire::UsageLine line;
    std::uint64_t held_rest_ns = 0;
  };
  struct Last {  // of the sample before
    std::uint64_t bytes = 0;
    bool held = false;
    std::uint64_t refused_total = 0;
    bool refused_known = false;
  };
  Running& running(const Key& key, std::int64_t from_unix_s);
  void integrate(std::uint64_t span_ns);
  void take(const Key& key, const UsageSample& sample, std::int64_t unix_s);
  void take_moved(const Key& key, std::uint64_t total, Running& r);
  void finish_all(std::int64_t to_unix_s);
  void finish(wire::UsageLine line);
  void keep(const wire::UsageLine& line);

  UsageSinks sinks_;
  std::map<Key, Running> running_;
  std::map<Key, Last> last_;
  std::map<Key, std::uint64_t> rest_ns_;  // what the finished rows of a key have left over
  std::map<Key, UsageTotals> totals_;
  std::map<Key, std::uint64_t>
      moved_seen_;  // up to which the rows count; kept while the tenant is away
  std::vector<wire::UsageLine> finished_;
  std::uint64_t next_serial_ = 1;
  Now before_{};
  bool sampled_ = false;
  std::uint64_t written_ns_ = 0;
  std::uint64_t gaps_ = 0;
};

}  // namespace bulkhead::daemon
