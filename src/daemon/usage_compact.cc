#include "daemon/usage_compact.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <tuple>

#include "daemon/store.h"

namespace bulkhead::daemon {
namespace {

using Rows = std::vector<wire::UsageLine>;
constexpr std::int64_t kDay_s = 86'400;
constexpr std::size_t kMostAtOnce = 256u << 20;  // read into memory; a file of ours is far smaller

// Rows that ended so long before the newest become one for each span.
struct Level {
  std::int64_t older_s, span_s;
};
constexpr std::int64_t kWhole_s = std::int64_t{1} << 60;
constexpr Level kLevels[] = {
    {7 * kDay_s, kDay_s}, {7 * kDay_s, 30 * kDay_s}, {kDay_s, kWhole_s}, {-1, kWhole_s}};

bool older(const wire::UsageLine& a, const wire::UsageLine& b) {
  return std::tie(a.row.to_unix_s, a.serial) < std::tie(b.row.to_unix_s, b.serial);
}

// False: a sum would wrap; `to` is as it was.
bool add(wire::UsageLine& to, const wire::UsageLine& from) {
  wire::UsageRow sum = to.row;
  const auto wraps = [](std::uint64_t& a, std::uint64_t b) {
    return __builtin_add_overflow(a, b, &a);
  };
  const auto wraps_measured = [&](std::uint64_t& a, std::uint64_t b) {  // nothing + measured
    if (b == wire::kNotMeasured) return false;
    if (a == wire::kNotMeasured) return a = b, false;
    return wraps(a, b) || a == wire::kNotMeasured;
  };
  if (wraps(sum.byte_seconds, from.row.byte_seconds) || wraps(sum.held_ms, from.row.held_ms) ||
      wraps(sum.refused, from.row.refused) || wraps_measured(sum.gpu_ms, from.row.gpu_ms) ||
      wraps_measured(sum.moved_bytes, from.row.moved_bytes)) {
    return false;
  }
  sum.from_unix_s = std::min(sum.from_unix_s, from.row.from_unix_s);
  sum.to_unix_s = std::max(sum.to_unix_s, from.row.to_unix_s);
  sum.peak_bytes = std::max(sum.peak_bytes, from.row.peak_bytes);
  to.row = sum;
  to.serial = std::max(to.serial, from.serial);
  return true;
}

// The first `count` rows by tenant, device and span; the others as they are.
Rows merge(const Rows& rows, std::size_t count, std::int64_t span_s) {
  using Key = std::tuple<std::string, std::string, std::int64_t>;
  std::map<Key, wire::UsageLine> merged;
  Rows out;
  for (std::size_t i = 0; i < count; ++i) {
    const wire::UsageRow& r = rows[i].row;
    const Key key{std::string{wire::text_of(r.tenant, sizeof r.tenant)},
                  std::string{reinterpret_cast<const char*>(r.uuid), sizeof r.uuid},
                  r.from_unix_s / span_s};
    const auto [at, is_new] = merged.try_emplace(key, rows[i]);
    if (is_new || add(at->second, rows[i])) continue;
    out.push_back(at->second);
    at->second = rows[i];
  }
  for (const auto& [key, line] : merged) out.push_back(line);
  out.insert(out.end(), rows.begin() + static_cast<std::ptrdiff_t>(count), rows.end());
  std::sort(out.begin(), out.end(), older);
  return out;
}

// So many of the oldest forget whose they were; `device`: and on which GPU.
Rows forget(Rows rows, std::size_t count, bool device) {
  for (std::size_t i = 0; i < count; ++i) {
    wire::UsageRow& r = rows[i].row;
    std::memset(r.tenant, 0, sizeof r.tenant);
    std::memcpy(r.tenant, kUsageEarlier, std::strlen(kUsageEarlier));
    if (device) std::memset(r.uuid, 0, sizeof r.uuid);
  }
  return merge(rows, count, kWhole_s);
}

}  // namespace

Rows compact_usage(Rows rows, std::size_t most) {
  std::set<std::uint64_t> numbers;
  std::erase_if(rows, [&](const auto& line) { return !numbers.insert(line.serial).second; });
  std::sort(rows.begin(), rows.end(), older);
  for (const Level& level : kLevels) {
    if (rows.size() <= most) return rows;
    const std::int64_t newest = rows.back().row.to_unix_s;
    const auto end = std::find_if(rows.begin(), rows.end(), [&](const auto& line) {
      return line.row.to_unix_s > newest - level.older_s;
    });
    const auto count =
        level.older_s < 0 ? rows.size() : static_cast<std::size_t>(end - rows.begin());
    rows = merge(rows, count, level.span_s);
  }
  // Still too many names: names of runs are never used twice. Then too many GPUs: a region may name any.
  for (const bool device : {false, true}) {
    if (rows.size() <= most) return rows;
    std::set<std::string> devices;
    for (const auto& line : rows)
      devices.emplace(reinterpret_cast<const char*>(line.row.uuid), sizeof line.row.uuid);
    const std::size_t stay = device ? 1 : devices.size();
    const std::size_t go = std::min(rows.size(), rows.size() - most + stay);
    rows = forget(std::move(rows), go, device);
  }
  return rows;
}

int compact_usage_file(int directory_fd, std::uint64_t bytes, std::size_t rows) {
  struct stat st {};
  if (::fstatat(directory_fd, kUsageFile, &st, AT_SYMLINK_NOFOLLOW) != 0) {
    return errno == ENOENT ? 0 : errno;
  }
  const auto size = static_cast<std::uint64_t>(st.st_size);
  if (!S_ISREG(st.st_mode) || size <= bytes) return 0;
  if (size > kMostAtOnce) return EFBIG;
  Rows all;
  // Its own name for the directory: the store may hold it under one that has been moved.
  const std::string directory = "/proc/self/fd/" + std::to_string(directory_fd);
  for (const std::string& text :
       read_last_lines(directory, kUsageFile, ~std::size_t{0}, kMostAtOnce)) {
    wire::UsageLine line;
    if (wire::parse_usage_line(text, line)) all.push_back(line);
  }
  if (all.empty()) return EIO;  // never an empty file for one that could not be read
  std::string out;
  for (const auto& line : compact_usage(std::move(all), rows))
    (out += wire::usage_line(line)) += '\n';
  return replace_state_file(directory_fd, kUsageFile, out);
}

}  // namespace bulkhead::daemon
