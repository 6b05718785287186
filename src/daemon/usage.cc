#include "daemon/usage.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "daemon/usage_compact.h"

namespace bulkhead::daemon {
namespace {

constexpr std::int64_t kHour_s = 3600;
constexpr std::int64_t kNs = 1'000'000'000;
constexpr std::uint64_t kNsPerS = 1'000'000'000, kNsPerMs = 1'000'000;

std::int64_t seconds(std::int64_t unix_ns) { return unix_ns / kNs; }
std::int64_t hour_of(std::int64_t unix_s) { return unix_s - unix_s % kHour_s; }

// Not measured plus something measured is what was measured.
void add_measured(std::uint64_t& sum, std::uint64_t more) {
  if (more == wire::kNotMeasured) return;
  sum = sum == wire::kNotMeasured ? more : sum + more;
}

bool says_nothing(const wire::UsageRow& r) {
  return r.byte_seconds == 0 && r.held_ms == 0 && r.peak_bytes == 0 && r.refused == 0 &&
         (r.gpu_ms == 0 || r.gpu_ms == wire::kNotMeasured) &&
         (r.moved_bytes == 0 || r.moved_bytes == wire::kNotMeasured);
}

}  // namespace

Usage::Running& Usage::running(const Key& key, std::int64_t from_unix_s) {
  const auto [at, is_new] = running_.try_emplace(key);
  if (!is_new) return at->second;
  wire::UsageLine& line = at->second.line;
  std::memcpy(line.row.tenant, key.first.data(),
              std::min(key.first.size(), sizeof line.row.tenant - 1));
  std::memcpy(line.row.uuid, key.second.data(), key.second.size());
  line.row.from_unix_s = line.row.to_unix_s = from_unix_s;
  line.row.gpu_ms = line.row.moved_bytes = wire::kNotMeasured;
  line.serial = next_serial_++;
  if (const auto rest = rest_ns_.find(key); rest != rest_ns_.end()) {
    line.rest_ns = rest->second;
    rest_ns_.erase(rest);
  }
  return at->second;
}

void Usage::integrate(std::uint64_t span_ns) {
  __extension__ using Wide = unsigned __int128;
  for (auto& [key, r] : running_) {
    const auto last = last_.find(key);
    if (last == last_.end()) continue;
    const Wide sum = static_cast<Wide>(last->second.bytes) * span_ns + r.line.rest_ns;
    const auto whole = static_cast<std::uint64_t>(sum / kNsPerS);
    r.line.rest_ns = static_cast<std::uint64_t>(sum % kNsPerS);
    r.line.row.byte_seconds += whole;
    const std::uint64_t held = last->second.held ? span_ns + r.held_rest_ns : r.held_rest_ns;
    r.held_rest_ns = held % kNsPerMs;
    r.line.row.held_ms += held / kNsPerMs;
    UsageTotals& total = totals_[key];
    total.byte_seconds += whole;
    total.held_ms += held / kNsPerMs;
  }
}

void Usage::take(const Key& key, const UsageSample& sample, std::int64_t unix_s) {
  Running& r = running(key, unix_s);
  Last& last = last_[key];
  wire::UsageRow& row = r.line.row;
  row.to_unix_s = std::max(row.from_unix_s, unix_s);
  row.peak_bytes = std::max(row.peak_bytes, sample.used_bytes);
  // A count that fell began anew; at the first sight nothing is known of when it rose.
  if (last.refused_known && sample.refused_total > last.refused_total) {
    row.refused += sample.refused_total - last.refused_total;
  }
  add_measured(row.gpu_ms, sample.gpu_ms);
  add_measured(totals_[key].gpu_ms, sample.gpu_ms);
  take_moved(key, sample.moved_total, r);
  row.counted_ms += sample.counted_ms;
  totals_[key].counted_ms += sample.counted_ms;
  last = {sample.used_bytes, sample.held, sample.refused_total, true};
}

// What the tenant's own sum has risen by since the rows last counted it, a daemon's restart in between or not: the sum outlives
// both. One that fell began anew.
void Usage::take_moved(const Key& key, std::uint64_t total, Running& r) {
  if (total == wire::kNotMeasured) return;
  std::uint64_t& seen = moved_seen_[key];
  const std::uint64_t more = total >= seen ? total - seen : total;
  seen = r.line.moved_seen = total;
  add_measured(r.line.row.moved_bytes, more);
  add_measured(totals_[key].moved_bytes, more);
}

void Usage::sample(const Now& now, const std::vector<UsageSample>& samples) {
  const std::uint64_t span = sampled_ ? now.mono_ns - before_.mono_ns : 0;
  const bool gap = span > kUsageGap_ns;
  if (gap) ++gaps_;
  if (sampled_ && !gap) integrate(span);
  const std::int64_t unix_s = seconds(now.unix_ns);
  if (sampled_) {
    const std::int64_t drift =
        now.unix_ns - before_.unix_ns - static_cast<std::int64_t>(now.mono_ns - before_.mono_ns);
    const std::int64_t before_s = seconds(before_.unix_ns);
    if (drift > kUsageJump_ns || drift < -kUsageJump_ns) {
      finish_all(before_s);
    } else if (hour_of(unix_s) != hour_of(before_s)) {
      finish_all(gap ? before_s : hour_of(unix_s));
    }
  }
  std::set<Key> there;
  for (const UsageSample& s : samples) {
    Key key{s.tenant, s.device};
    take(key, s, unix_s);
    there.insert(std::move(key));
  }
  for (auto it = last_.begin(); it != last_.end();) {
    it = there.contains(it->first) ? std::next(it) : last_.erase(it);
  }
  before_ = now;
  if (!sampled_ || now.mono_ns - written_ns_ >= kUsageWrite_ns) {
    write_now();
    written_ns_ = now.mono_ns;
  }
  sampled_ = true;
}

void Usage::finish_all(std::int64_t to_unix_s) {
  for (auto& [key, r] : running_) {
    r.line.row.to_unix_s = std::max(r.line.row.from_unix_s, to_unix_s);
    if (r.line.rest_ns != 0) rest_ns_[key] = r.line.rest_ns;
    finish(r.line);
  }
  running_.clear();
  // Behind the lines in the store's queue: a row is never in neither file.
  write_now();
}

void Usage::finish(wire::UsageLine line) {
  if (says_nothing(line.row)) return;
  line.rest_ns = line.moved_seen = 0;
  sinks_.append(wire::usage_line(line));
  keep(line);
}

void Usage::keep(const wire::UsageLine& line) {
  if (finished_.size() >= kUsageRowsKept)
    finished_ = compact_usage(std::move(finished_), kUsageRowsKept / 2);
  finished_.push_back(line);
}

void Usage::write_now() {
  std::vector<wire::UsageLine> rows;
  rows.reserve(running_.size());
  for (const auto& [key, r] : running_) rows.push_back(r.line);
  sinks_.replace(wire::usage_open_text(rows, next_serial_));
}

void Usage::restore(const Now& now, const std::string& open_text,
                    const std::vector<std::string>& finished_lines) {
  std::set<std::uint64_t> finished;
  const auto count = [&](const wire::UsageRow& row) {
    Key key{std::string{wire::text_of(row.tenant, sizeof row.tenant)}, DeviceId{}};
    std::memcpy(key.second.data(), row.uuid, sizeof row.uuid);
    UsageTotals& total = totals_[key];
    total.byte_seconds += row.byte_seconds;
    total.held_ms += row.held_ms;
    add_measured(total.gpu_ms, row.gpu_ms);
    add_measured(total.moved_bytes, row.moved_bytes);
    total.counted_ms += row.counted_ms;
    return key;
  };
  for (const std::string& text : finished_lines) {
    wire::UsageLine line;
    if (!wire::parse_usage_line(text, line) || !finished.insert(line.serial).second) continue;
    keep(line);
    count(line.row);
    next_serial_ = std::max(next_serial_, line.serial + 1);
  }
  std::vector<wire::UsageLine> open;
  std::uint64_t next = 1;
  if (!wire::parse_usage_open(open_text, open, next)) open.clear();
  next_serial_ = std::max(next_serial_, next);
  // A row that is finished and has no running successor yet: its tenant's sum is not known, what its rows counted is.
  for (const auto& [key, total] : totals_)
    moved_seen_[key] = total.moved_bytes == wire::kNotMeasured ? 0 : total.moved_bytes;
  const std::int64_t hour = hour_of(seconds(now.unix_ns));
  for (const wire::UsageLine& line : open) {
    next_serial_ = std::max(next_serial_, line.serial + 1);
    if (finished.contains(line.serial)) continue;
    const Key key = count(line.row);
    if (line.moved_seen != 0) moved_seen_[key] = line.moved_seen;
    const bool goes_on =
        hour_of(line.row.from_unix_s) == hour && line.row.to_unix_s <= seconds(now.unix_ns);
    if (goes_on && running_.try_emplace(key, Running{line}).second) continue;
    if (line.rest_ns != 0) rest_ns_[key] = line.rest_ns;
    finish(line);
  }
}

std::vector<wire::UsageRow> Usage::rows(std::int64_t since_unix_s) const {
  std::vector<wire::UsageRow> out;
  for (const wire::UsageLine& line : finished_) {
    if (line.row.to_unix_s > since_unix_s) out.push_back(line.row);
  }
  for (const auto& [key, r] : running_) {
    if (r.line.row.to_unix_s >= since_unix_s && !says_nothing(r.line.row))
      out.push_back(r.line.row);
  }
  return out;
}

UsageTotals Usage::totals(const std::string& tenant, const DeviceId& device) const {
  const auto at = totals_.find({tenant, device});
  return at == totals_.end() ? UsageTotals{} : at->second;
}

}  // namespace bulkhead::daemon
