#include "sim/profile.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "base/fd.h"
#include "sim/builtin_profiles.h"

namespace bulkhead::sim {
namespace {

struct Number {
  std::string_view key;
  std::uint64_t Profile::*at;
};
struct Text {
  std::string_view key;
  char* at;
  std::size_t bytes;
};

constexpr Number kNumbers[] = {
    {"count", &Profile::count},
    {"driver.cuda_version", &Profile::cuda_version},
    {"device.total_bytes", &Profile::total_bytes},
    {"device.nvml_total_bytes", &Profile::nvml_total_bytes},
    {"device.sms", &Profile::sms},
    {"device.cc_major", &Profile::cc_major},
    {"device.cc_minor", &Profile::cc_minor},
    {"device.sm_clock_khz", &Profile::sm_clock_khz},
    {"device.memory_clock_khz", &Profile::memory_clock_khz},
    {"device.memory_bus_bits", &Profile::memory_bus_bits},
    {"device.l2_bytes", &Profile::l2_bytes},
    {"device.pci_device_id", &Profile::pci_device_id},
    {"device.pci_subsystem_id", &Profile::pci_subsystem_id},
    {"device.power_limit_mw", &Profile::power_limit_mw},
    {"device.power_idle_mw", &Profile::power_idle_mw},
    {"device.temperature_c", &Profile::temperature_c},
    {"time.slice_ns", &Profile::slice_ns},
    {"time.switch_ns", &Profile::switch_ns},
    {"time.queue_depth", &Profile::queue_depth},
    {"time.mps_sm_unit", &Profile::mps_sm_unit},
    {"time.mps_sm_least", &Profile::mps_sm_least},
    {"time.shared_bytes_per_sm", &Profile::shared_bytes_per_sm},
    {"time.blocks_per_sm", &Profile::blocks_per_sm},
    {"mig.instances", &Profile::mig_instances},
    {"mig.total_bytes", &Profile::mig_total_bytes},
    {"mig.sms", &Profile::mig_sms},
    {"charge.context_bytes", &Profile::context_bytes},
    {"charge.extra_context_bytes", &Profile::extra_context_bytes},
    {"charge.module_bytes", &Profile::module_bytes},
    {"charge.granularity_bytes", &Profile::granularity_bytes},
    {"charge.context_hidden_bytes", &Profile::context_hidden_bytes},
    {"device.host_bytes_per_us", &Profile::host_bytes_per_us},
    {"device.device_bytes_per_us", &Profile::device_bytes_per_us},
    {"charge.stream_bytes", &Profile::stream_bytes},
    {"charge.green_context_bytes", &Profile::green_context_bytes},
    {"charge.array_unit_bytes", &Profile::array_unit_bytes},
    {"charge.default_stack_bytes", &Profile::default_stack_bytes},
    {"charge.threads_per_sm", &Profile::threads_per_sm},
    {"charge.slab_unit_bytes", &Profile::slab_unit_bytes},
    {"charge.pool_block_bytes", &Profile::pool_block_bytes},
    {"charge.managed_batch_bytes", &Profile::managed_batch_bytes},
    {"charge.pitch_bytes", &Profile::pitch_bytes},
};

std::string_view trim(std::string_view s) noexcept {
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
  while (!s.empty() && blank(s.front())) s.remove_prefix(1);
  while (!s.empty() && blank(s.back())) s.remove_suffix(1);
  return s;
}

// A '#' inside a string is text.
std::string_view without_comment(std::string_view s) noexcept {
  bool quoted = false;
  for (std::size_t i = 0; i < s.size(); ++i) {
    if (s[i] == '"') quoted = !quoted;
    if (s[i] == '#' && !quoted) return s.substr(0, i);
  }
  return s;
}

// Decimal or 0x hexadecimal, '_' between digits as TOML has it.
bool to_number(std::string_view s, std::uint64_t& out) noexcept {
  const bool hex = s.starts_with("0x");
  if (hex) s.remove_prefix(2);
  const unsigned base = hex ? 16 : 10;
  if (s.empty()) return false;
  out = 0;
  for (const char c : s) {
    if (c == '_') continue;
    const char low = static_cast<char>(c | 0x20);
    const unsigned digit = c >= '0' && c <= '9'       ? static_cast<unsigned>(c - '0')
                           : low >= 'a' && low <= 'f' ? static_cast<unsigned>(low - 'a') + 10
                                                      : 99;
    if (digit >= base || out > (UINT64_MAX - digit) / base) return false;
    out = out * base + digit;
  }
  return true;
}

bool copy_text(std::string_view s, char* at, std::size_t bytes) noexcept {
  if (s.size() < 2 || s.front() != '"' || s.back() != '"' || s.size() - 2 >= bytes) return false;
  std::memcpy(at, s.data() + 1, s.size() - 2);
  at[s.size() - 2] = 0;
  return true;
}

const char* set(Profile& p, std::string_view section, std::string_view key,
                std::string_view value) noexcept {
  char full[128];
  if (section.size() + key.size() + 2 > sizeof full) return "name too long";
  const int n =
      section.empty()
          ? std::snprintf(full, sizeof full, "%.*s", static_cast<int>(key.size()), key.data())
          : std::snprintf(full, sizeof full, "%.*s.%.*s", static_cast<int>(section.size()),
                          section.data(), static_cast<int>(key.size()), key.data());
  const std::string_view name{full, static_cast<std::size_t>(n)};
  if (section == "latency_ns") {
    if (p.latencies == kMaxLatencies || key.size() >= sizeof Latency{}.name) return "too many";
    Latency& l = p.latency[p.latencies];
    std::memcpy(l.name, key.data(), key.size());
    l.name[key.size()] = 0;
    if (!to_number(value, l.ns)) return "not a number";
    ++p.latencies;
    return nullptr;
  }
  const Text texts[] = {{"name", p.name, sizeof p.name},
                        {"driver.version", p.driver_version, sizeof p.driver_version},
                        {"driver.nvml_version", p.nvml_version, sizeof p.nvml_version},
                        {"mig.profile", p.mig_profile, sizeof p.mig_profile}};
  for (const Text& t : texts) {
    if (t.key == name) return copy_text(value, t.at, t.bytes) ? nullptr : "not a short string";
  }
  for (const Number& f : kNumbers) {
    if (f.key == name) return to_number(value, p.*f.at) ? nullptr : "not a number";
  }
  return "unknown key";
}

const char* check(const Profile& p) noexcept {
  const auto power_of_two = [](std::uint64_t v) { return v != 0 && (v & (v - 1)) == 0; };
  if (p.count == 0 || p.units() > kMaxUnits) return "count: 1 to 16 devices or MIG instances";
  if (p.unit_bytes() == 0) return "total_bytes is missing";
  if (p.mig_instances == 0 && p.nvml_total_bytes < p.total_bytes) return "nvml_total_bytes < total";
  for (const std::uint64_t v : {p.granularity_bytes, p.slab_unit_bytes, p.pool_block_bytes,
                                p.array_unit_bytes, p.managed_batch_bytes, p.pitch_bytes}) {
    if (!power_of_two(v)) return "granularities must be powers of two";
  }
  if (p.granularity_bytes < 4096) return "granularity_bytes under a page";
  if (p.pool_block_bytes < p.granularity_bytes) return "pool_block_bytes under the granularity";
  if (p.unit_sms() == 0 || p.unit_sms() > 4096 || p.threads_per_sm == 0) return "sms: 1 to 4096";
  if (p.slice_ns == 0) return "slice_ns is 0";
  if (p.queue_depth == 0 || p.queue_depth > 1024) return "queue_depth: 1 to 1024";
  if (p.mps_sm_unit == 0 || p.blocks_per_sm == 0) return "mps_sm_unit or blocks_per_sm is 0";
  return nullptr;
}

std::uint64_t fnv(const char* s, std::size_t n) noexcept {
  std::uint64_t h = 0xcbf29ce484222325;
  for (std::size_t i = 0; i < n; ++i) h = (h ^ static_cast<unsigned char>(s[i])) * 0x100000001b3;
  return h;
}

const char* finish(const char* base, const char* text, std::size_t bytes, std::uint64_t count,
                   Profile& out) noexcept {
  unsigned line = 0;
  if (const char* wrong = parse_profile(text, bytes, out, line)) return wrong;
  if (count != 0) out.count = count;
  std::snprintf(out.key, sizeof out.key, "%.20s-%llu-%08x", base,
                static_cast<unsigned long long>(out.count),
                static_cast<unsigned>(fnv(text, bytes)));
  return check(out);
}

const char* load_file(const char* path, Profile& out) noexcept {
  static char text[64 << 10];
  const UniqueFd fd{::open(path, O_RDONLY | O_CLOEXEC)};
  if (!fd.ok()) return "profile cannot be opened";
  const ssize_t n = ::read(fd.get(), text, sizeof text);
  if (n <= 0 || n == static_cast<ssize_t>(sizeof text)) return "profile empty or over 64 KiB";
  return finish("file", text, static_cast<std::size_t>(n), 0, out);
}

}  // namespace

const char* parse_profile(const char* text, std::size_t bytes, Profile& out,
                          unsigned& line) noexcept {
  std::string_view rest{text, bytes}, section;
  for (line = 1; !rest.empty(); ++line) {
    const std::size_t end = rest.find('\n');
    std::string_view row = trim(without_comment(rest.substr(0, end)));
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    if (row.empty()) continue;
    if (row.front() == '[') {
      if (row.back() != ']') return "section without ]";
      section = trim(row.substr(1, row.size() - 2));
      continue;
    }
    const std::size_t eq = row.find('=');
    if (eq == std::string_view::npos) return "neither a section nor key = value";
    if (const char* wrong = set(out, section, trim(row.substr(0, eq)), trim(row.substr(eq + 1)))) {
      return wrong;
    }
  }
  return nullptr;
}

const char* load_profile(const char* spec, Profile& out) noexcept {
  if (spec == nullptr || *spec == 0) spec = "h200";
  if (std::strchr(spec, '/') != nullptr) return load_file(spec, out);
  std::string_view name{spec};
  std::uint64_t count = 0;
  const std::size_t x = name.rfind('x');
  if (x != std::string_view::npos && x + 1 < name.size() && to_number(name.substr(x + 1), count)) {
    if (count == 0) return "no devices asked for";
    name = name.substr(0, x);
  }
  for (const BuiltinProfile& b : kBuiltinProfiles) {
    if (name == b.name) return finish(b.name, b.text, std::strlen(b.text), count, out);
  }
  return "no such profile";
}

}  // namespace bulkhead::sim
