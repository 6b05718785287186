#include "daemon/config.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/fd.h"
#include "daemon/compute.h"
#include "daemon/config_audit.h"
#include "daemon/config_siem.h"
#include "daemon/config_table.h"
#include "policy/compute_spec.h"
#include "policy/mode.h"
#include "policy/node_admission.h"
#include "wire/parse.h"

namespace bulkhead::daemon {
namespace {

constexpr std::size_t kMostBytes = 1u << 20;
constexpr const char* kSizeFix = "write it like \"10GiB\", \"512m\" or \"50%\"";
constexpr const char* kNameFix =
    "use a-z, 0-9, '.', '_' and '-', at most 63, the first a letter or digit";

bool is_name(const std::string& text) {
  char name[wire::kNameBytes];
  if (text.size() >= sizeof name) return false;
  wire::put_text(name, text.c_str());
  return wire::valid_name(name);
}

// A text that must fit a field of the record.
template <std::size_t N>
void field(ConfigTable& t, const char* key, char (&to)[N]) {
  std::string value;
  const unsigned at = t.text(key, value);
  if (at == 0) return;
  if (value.size() >= N) {
    t.blame(at, key, "longer than " + std::to_string(N - 1) + " characters");
  } else {
    wire::put_text(to, value.c_str());
  }
}
template <std::size_t N>
void name_field(ConfigTable& t, const char* key, char (&to)[N]) {
  std::string value;
  const unsigned at = t.text(key, value);
  if (at == 0) return;
  if (!is_name(value) || value.size() >= N) {
    t.blame(at, key, "'" + value + "' is not a name; " + kNameFix);
  } else {
    wire::put_text(to, value.c_str());
  }
}

void percent(ConfigTable& t, const char* key, std::uint32_t& out, bool* borrow) {
  std::string value;
  const unsigned at = t.text(key, value);
  if (at == 0) return;
  policy::Share share;
  if (!policy::parse_share(value.c_str(), &share)) {
    t.blame(at, key, "'" + value + "' " + policy::share_problem(value.c_str()));
  } else if (share.borrow && borrow == nullptr) {
    t.blame(at, key, "'" + value + "' is not a share; write it like \"25%\"");
  } else {
    out = share.x100;
    if (borrow != nullptr) *borrow = share.borrow;
  }
}

void pace(ConfigTable& t, const char* key, std::uint32_t& out) {
  std::string value;
  const unsigned at = t.text(key, value);
  if (at != 0 && !policy::parse_pace(value.c_str(), &out))
    t.blame(at, key, "'" + value + "' is not a time; " + policy::kPaceFix);
}

void read_daemon(ConfigTable t, Config& c) {
  t.port("console", 9478, c.console_port);
  t.port("metrics", 9477, c.metrics_port);
  std::vector<std::string> names;
  const unsigned at = t.texts("metrics_names", names);
  for (const std::string& name : names) {
    if (name == "hami") {
      c.hami_names = true;
    } else if (name == "dcgm") {
      c.dcgm_names = true;
    } else {
      t.blame(at, "metrics_names", "'" + name + "' is neither \"hami\" nor \"dcgm\"");
    }
  }
  unsigned level = static_cast<unsigned>(c.log_level);
  if (t.word("log_level", {"error", "warning", "info", "debug"}, level) != 0)
    c.idle.emplace_back("[daemon] log_level");
  c.log_level = static_cast<LogLevel>(level);
  t.flag("self_test", c.self_test);
  t.finish();
}

void read_policy(ConfigTable t, Config& c) {
  c.has_users_may_create = t.flag("users_may_create", c.users_may_create) != 0;
  std::string value;
  if (const unsigned at = t.text("max_memory", value); at != 0) {
    if (!policy::parse_size(value.c_str(), policy::Grammar::kOurs, &c.max_memory)) {
      t.blame(at, "max_memory", "'" + value + "' is not a size; " + kSizeFix);
    }
  }
  percent(t, "max_compute", c.max_compute_x100, nullptr);
  if (const unsigned at = t.text("unmatched", value); at != 0 && value != "refuse") {
    if (value.starts_with("default:") && is_name(value.substr(8))) {
      c.default_tenant = value.substr(8);
      c.default_line = at;
    } else {
      t.blame(at, "unmatched", "'" + value + "' is neither \"refuse\" nor \"default:NAME\"");
    }
  }
  t.flag("private_dirs", c.private_dirs);
  unsigned bypass = 0;
  t.word("bypass", {"report", "kill"}, bypass);
  c.bypass = static_cast<OnBypass>(bypass);
  t.texts("bypass_allow", c.bypass_allow);
  t.finish();
}

void read_trust(ConfigTable trust, Config& c) {
  const auto path = [&trust](const char* key, std::string& out) {
    const unsigned at = trust.text(key, out);
    if (at != 0 && !out.starts_with('/')) trust.blame(at, key, "not a whole path; begin it with /");
  };
  path("jwks", c.trust_jwks);
  path("shim_root", c.trust_shim_root);
  path("shim", c.trust_shim);
  for (const auto& [key, out] :
       {std::pair{"audience", &c.trust_audience}, std::pair{"issuer", &c.trust_issuer}}) {
    const unsigned at = trust.text(key, *out);
    if (at != 0 && (out->empty() || out->size() > 127))
      trust.blame(at, key, "not 1 to 127 characters");
  }
  trust.finish();
}

void read_others(ConfigTable& root, Config& c) {
  ConfigTable reserve = root.table("reserve");
  char word[32] = {};
  name_field(reserve, "class", word);
  c.reserve_class = word;
  percent(reserve, "share", c.reserve_x100, nullptr);
  if (reserve.present() && !(reserve.has("class") && reserve.has("share"))) {
    reserve.blame(reserve.line(), reserve.has("share") ? "class" : "share",
                  "missing; a reserve has both, like class = \"critical\" and share = \"15%\"");
  }
  reserve.finish();
  ConfigTable mps = root.table("mps");
  mps.flag("enabled", c.mps_enabled);
  const unsigned at_groups = mps.texts("groups", c.mps_groups);
  for (const std::string& g : c.mps_groups) {
    if (!is_name(g) || g.size() >= sizeof wire::TenantRecord::mps_group)
      mps.blame(at_groups, "groups", "'" + g + "' is not a name of at most 31 characters");
  }
  const unsigned at_partitions = mps.texts("partition_groups", c.mps_partition_groups);
  for (const std::string& g : c.mps_partition_groups) {
    if (std::find(c.mps_groups.begin(), c.mps_groups.end(), g) == c.mps_groups.end())
      mps.blame(at_partitions, "partition_groups",
                "'" + g + "' is not one of groups; add it there");
  }
  mps.text("control", c.mps_control);
  mps.finish();
  read_audit(root.table("audit"), c);
  read_siem(root.table("siem"), c);
  read_trust(root.table("trust"), c);
}

void read_match(ConfigTable m, wire::TenantRecord& r) {
  std::int64_t id = 0;
  if (m.number("uid", 0, 0xffff'fffe, id) != 0) r.match_uid = static_cast<std::uint32_t>(id);
  if (m.number("gid", 0, 0xffff'fffe, id) != 0) r.match_gid = static_cast<std::uint32_t>(id);
  field(m, "cgroup", r.match_cgroup);
  if (r.match_cgroup[0] != '\0') {
    wire::TenantRecord
        probe{};  // the parser's rule for paths, asked of a record that is good but for it
    wire::put_text(probe.name, "a");
    std::memcpy(probe.match_cgroup, r.match_cgroup, sizeof probe.match_cgroup);
    if (!wire::check_record(probe, wire::RecordUse::kUpdate).ok()) {
      m.blame(m.line(), "cgroup",
              "not a path below the cgroup root; write it like \"/user.slice\"");
    }
  }
  m.finish();
}

void read_words(ConfigTable& t, wire::TenantRecord& r) {
  unsigned v = 0;
  if (const unsigned at = t.word("mode", {"auto", "spatial", "slice", "temporal", "partition"}, v);
      at != 0) {
    r.compute_mode = static_cast<wire::ComputeMode>(v);
  }
  if (t.word("priority", {"batch", "latency"}, v) != 0) r.priority = static_cast<wire::Priority>(v);
  if (t.word("audit", {"off", "observe", "enforce"}, v) != 0)
    r.audit_mode = static_cast<wire::AuditMode>(v);
  if (t.word("on_fault", {"deny", "open"}, v) != 0) r.on_fault = static_cast<wire::OnFault>(v);
  field(t, "grant_subject", r.grant_subject);
  name_field(t, "reserve_class", r.reserve_class);
  name_field(t, "mps_group", r.mps_group);
  std::vector<std::string> shares;
  const unsigned at = t.texts("share_with", shares);
  if (shares.size() > wire::kMaxShares) {
    t.blame(at, "share_with", "more than " + std::to_string(wire::kMaxShares) + " names");
    shares.resize(wire::kMaxShares);
  }
  for (std::size_t i = 0; i < shares.size(); ++i) {
    if (!is_name(shares[i]))
      t.blame(at, "share_with", "'" + shares[i] + "' is not a name");
    else
      wire::put_text(r.share_with[i], shares[i].c_str());
  }
}

ConfiguredTenant read_tenant(const toml::table& table, Problems& problems) {
  ConfigTable t{&table, "[[tenant]]", problems};
  ConfiguredTenant out;
  wire::TenantRecord& r = out.record;
  r.match_uid = r.match_gid = wire::kNoId;
  out.line = t.line();
  name_field(t, "name", r.name);
  if (!t.has("name")) t.blame(out.line, "name", "missing; every tenant has one");
  read_match(t.table("match"), r);
  r.owner_uid = r.match_uid;
  const unsigned at_devices = t.texts("devices", out.devices);
  for (const std::string& d : out.devices) {
    if (!d.starts_with("GPU-") && !d.starts_with("MIG-")) {
      t.blame(at_devices, "devices", "'" + d + "' is not a UUID; 'nvidia-smi -L' lists them");
    }
  }
  std::string memory;
  if (const unsigned at = t.text("memory", memory); at != 0) {
    out.has_memory = true;
    if (!policy::parse_memory_spec(memory.c_str(), policy::Grammar::kOurs, &out.memory)) {
      t.blame(at, "memory", "'" + memory + "' is not a size; " + kSizeFix);
    }
  }
  bool borrow = false;
  percent(t, "compute", out.compute_x100, &borrow);
  if (borrow) r.flags |= wire::kRecordBorrow;
  percent(t, "ceiling", out.ceiling_x100, nullptr);
  if (out.ceiling_x100 != 0 && out.ceiling_x100 < out.compute_x100) {
    t.blame(out.line, "ceiling",
            "below compute, " + policy::share_text(out.compute_x100, borrow) +
                "; it is the most that may be borrowed");
  } else if (out.ceiling_x100 != 0 && !borrow) {
    t.blame(out.line, "ceiling", "nothing is borrowed without a + behind compute, like \"25%+\"");
  }
  pace(t, "burst", r.burst_us);
  pace(t, "window", r.window_us);
  t.ratio("dampening", r.dampening_x1000);
  t.rate("copy_rate", r.copy_rate_mb_s);
  read_words(t, r);
  t.finish();
  return out;
}

// What no self-test can change: with the best verdict there is, the file must allow what it asks for.
void check_mode(const Config& c, const ConfiguredTenant& t, Problems& problems) {
  const std::string group = t.record.mps_group;
  if (!group.empty() &&
      std::find(c.mps_groups.begin(), c.mps_groups.end(), group) == c.mps_groups.end()) {
    problems.add(t.line, "tenant " + std::string{t.record.name} + ": mps_group " + group +
                             " is not in [mps] groups");
    return;
  }
  policy::ModeWish wish;
  wish.asked = static_cast<policy::ModeAsked>(t.record.compute_mode);
  wish.borrows = (t.record.flags & wire::kRecordBorrow) != 0;
  wish.batch = t.record.priority == wire::Priority::kBatch;
  wish.group = group;
  const policy::ModeDevice best{"its GPUs",
                                t.compute_x100,
                                policy::Known::kWorks,
                                policy::Known::kWorks,
                                10'000,
                                1,
                                0,
                                policy::Known::kWorks,
                                10'000,
                                1};
  const policy::ModeRules rules{c.mps_enabled, c.mps_groups, c.mps_partition_groups};
  const std::string p = policy::rule_mode(wish, rules, {&best, 1}).problem;
  if (!p.empty()) problems.add(t.line, "tenant " + std::string{t.record.name} + ": " + p);
}

void check_tenants(const Config& c, Problems& problems) {
  bool found = c.default_tenant.empty();
  for (std::size_t i = 0; i < c.tenants.size(); ++i) {
    const ConfiguredTenant& t = c.tenants[i];
    const std::string name = t.record.name;
    check_mode(c, t, problems);
    found |= name == c.default_tenant;
    for (std::size_t j = 0; j < i && !name.empty(); ++j) {
      if (name != c.tenants[j].record.name) continue;
      problems.add(t.line, "a second tenant " + name + " (the first is in line " +
                               std::to_string(c.tenants[j].line) + "); rename or remove one");
    }
    if (t.record.reserve_class[0] != '\0' && c.reserve_class != t.record.reserve_class) {
      problems.add(t.line, "tenant " + name + ": reserve_class is '" + t.record.reserve_class +
                               "', and [reserve] class is '" + c.reserve_class +
                               "'; make them one");
    }
  }
  if (!found) {
    problems.add(c.default_line, "[policy] unmatched names " + c.default_tenant +
                                     ", which is no [[tenant]] here; declare it");
  }
}

// toml++ 3.3 has undefined behaviour or asserts on some characters beyond ASCII, and on NUL, where a key is expected. It gets
// none: in lines of comment they become '?', elsewhere they are a problem. Returns the line of the first such, 0 = none.
unsigned without_oddities(std::string& text) {
  unsigned line = 1;
  bool comment = false, blank = true;
  for (char& c : text) {
    if (c == '\n') {
      ++line;
      comment = false;
      blank = true;
      continue;
    }
    if (blank && c == '#') comment = true;
    blank = blank && (c == ' ' || c == '\t');
    const auto byte = static_cast<unsigned char>(c);
    if ((byte >= 0x20 && byte < 0x7f) || c == '\t' || c == '\r') continue;
    if (!comment) return line;
    c = '?';
  }
  return 0;
}

// The same library takes for granted that a key follows "[" or "[[". Returns the line of the first header without one, 0 = none.
unsigned header_without_key(std::string_view text) {
  unsigned line = 1;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    std::string_view rest = text.substr(0, end);
    const auto skip = [&rest](std::string_view what) {
      while (!rest.empty() && what.find(rest.front()) != what.npos) rest.remove_prefix(1);
    };
    skip(" \t");
    if (!rest.empty() && rest.front() == '[') {
      rest.remove_prefix(rest.starts_with("[[") ? 2 : 1);
      skip(" \t");
      const char c = rest.empty() ? '\0' : rest.front();
      const bool key = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '_' || c == '-' || c == '"' || c == '\'';
      if (!key) return line;
    }
    if (end == text.npos) return 0;
    text.remove_prefix(end + 1);
    ++line;
  }
  return 0;
}

// Nor does it look for a "}" where a value is expected. Returns the line of the first, 0 = none.
unsigned brace_without_value(std::string_view text) {
  unsigned line = 1;
  char before = '\0';  // the last that is neither blank nor in a text or comment
  char quote = '\0';
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\n') {
      ++line;
      quote = quote == '#' ? '\0' : quote;
    } else if (quote == '#') {
      continue;
    } else if (quote != '\0') {
      if (c == '\\' && quote == '"') ++i;
      if (c == quote) quote = '\0';
    } else if (c == '"' || c == '\'' || c == '#') {
      quote = c;
      if (c != '#') before = c;
    } else if (c == '}' && (before == '[' || before == ',' || before == '=')) {
      return line;
    } else if (c != ' ' && c != '\t' && c != '\r') {
      before = c;
    }
  }
  return 0;
}

}  // namespace

Outcome<Config> parse_config(std::string_view text, const std::string& file) {
  std::string plain{text};
  if (const unsigned line = without_oddities(plain); line != 0) {
    return Outcome<Config>::because(
        file + ":" + std::to_string(line) +
        ": a control character, or one beyond ASCII; only lines of comment may have some");
  }
  if (const unsigned line = header_without_key(plain); line != 0) {
    return Outcome<Config>::because(
        file + ":" + std::to_string(line) +
        ": a name is missing after [; write it like [policy] or [[tenant]]");
  }
  if (const unsigned line = brace_without_value(plain); line != 0) {
    return Outcome<Config>::because(file + ":" + std::to_string(line) +
                                    ": a value is missing before }; write it like {uid = 1000}");
  }
  const toml::parse_result parsed = toml::parse(std::string_view{plain}, file);
  if (!parsed) {
    std::string what{parsed.error().description()};
    for (char& ch : what) {
      if (static_cast<unsigned char>(ch) < 0x20 || ch == 0x7f) ch = '?';
    }
    return Outcome<Config>::because(file + ":" +
                                    std::to_string(parsed.error().source().begin.line) + ": " +
                                    what + "; see toml.io for the grammar");
  }
  Config c;
  c.file = file;
  Problems problems;
  ConfigTable root{&parsed.table(), "", problems};
  read_daemon(root.table("daemon"), c);
  read_policy(root.table("policy"), c);
  read_others(root, c);
  if (const toml::array* list = root.tables("tenant"); list != nullptr) {
    for (const toml::node& node : *list) {
      c.tenants.push_back(read_tenant(*node.as_table(), problems));
    }
  }
  root.finish();
  check_tenants(c, problems);
  if (problems.text.empty()) return c;
  return Outcome<Config>::because(file + ":" + std::to_string(problems.line) + ": " +
                                  problems.text);
}

Outcome<Config> load_config(const std::string& file) {
  const auto because = [&file](const std::string& why) {
    return Outcome<Config>::because(file + ": " + why);
  };
  const UniqueFd fd{::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)};
  if (!fd.ok()) return because(std::string{std::strerror(errno)} + "; make it, or name another");
  struct stat st {};
  if (::fstat(fd.get(), &st) != 0) return because(std::strerror(errno));
  // A pipe without a writer reads as an empty configuration, which would take every tenant away.
  if (!S_ISREG(st.st_mode)) return because("not a regular file; name the configuration's own file");
  std::string text;
  char part[16384];
  for (;;) {
    const ssize_t n = ::read(fd.get(), part, sizeof part);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return because(std::strerror(errno));
    if (n == 0) break;
    text.append(part, static_cast<std::size_t>(n));
    if (text.size() > kMostBytes) return because("over 1 MiB; this is not a configuration");
  }
  auto config = parse_config(text, file);
  if (!config.ok()) return config;
  if (const std::string problem = read_trust_file(*config); !problem.empty())
    return Outcome<Config>::because(problem);
  return config;
}

}  // namespace bulkhead::daemon
