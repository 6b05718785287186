// bulkhead audit tail | export | witness | cosign, and what the commands share.
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>

#include "audit/witness.h"
#include "base/places.h"
#include "cli/audit.h"
#include "cli/audit_common.h"
#include "cli/say.h"
#include "wire/lines.h"

namespace bulkhead::cli {
namespace {

volatile std::sig_atomic_t stopped = 0;
void on_signal(int) { stopped = 1; }

void print_entry(audit::LogReader& log, std::uint64_t index, bool addresses) {
  const auto entry = log.entry(index);
  const std::string text = entry ? audit::entry_json(index, *entry, addresses)
                                 : "{\"damaged\":true,\"index\":" + std::to_string(index) + "}";
  fmt::print("{}\n", wire::clean_text(text.c_str(), text.size()));
}

std::uint64_t signed_size(audit::LogReader& log, const std::string& origin) {
  std::size_t used = 0;
  const auto note = audit::parse_note(log.last_checkpoint(origin), used);
  const auto checkpoint = note ? audit::parse_checkpoint(note->text) : std::nullopt;
  return checkpoint ? checkpoint->size : 0;
}

// c2sp.org/tlog-tiles: N in groups of three digits, each but the last with an x before it.
std::string tile_number(std::uint64_t n) {
  std::string out = fmt::format("{:03}", n % 1000);
  for (n /= 1000; n > 0; n /= 1000) out.insert(0, fmt::format("x{:03}/", n % 1000));
  return out;
}

bool write_file(const std::string& path, const std::string& bytes) {
  if (!make_private_directories(path.substr(0, path.rfind('/')))) return false;
  std::FILE* const f = std::fopen(path.c_str(), "wbe");
  if (f == nullptr) return false;
  const bool good = std::fwrite(bytes.data(), 1, bytes.size(), f) == bytes.size();
  return std::fclose(f) == 0 && good;
}

bool write_entry_tile(audit::LogReader& log, const std::string& dir, std::uint64_t n,
                      std::uint64_t count) {
  std::string bytes;
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto entry = log.entry(n * 256 + i);
    if (!entry) return false;
    bytes += static_cast<char>(entry->size() >> 8);
    bytes += static_cast<char>(entry->size());
    bytes.append(entry->begin(), entry->end());
  }
  const std::string part = count == 256 ? "" : ".p/" + std::to_string(count);
  return write_file(dir + "/tile/entries/" + tile_number(n) + part, bytes);
}

bool write_hash_tile(audit::LogReader& log, const std::string& dir, unsigned level, std::uint64_t n,
                     std::uint64_t count) {
  std::string bytes;
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto hash = log.hash(level * 8, n * 256 + i);
    if (!hash) return false;
    bytes.append(hash->begin(), hash->end());
  }
  const std::string part = count == 256 ? "" : ".p/" + std::to_string(count);
  return write_file(fmt::format("{}/tile/{}/{}{}", dir, level, tile_number(n), part), bytes);
}

int export_tiles(audit::LogReader& log, const std::string& origin, const std::string& dir) {
  const std::uint64_t size = signed_size(log, origin);
  if (size == 0 || log.first() != 0)
    return fail(1, "tiles need a signed log with all its segments");
  bool good = write_file(dir + "/checkpoint", log.last_checkpoint(origin));
  for (std::uint64_t at = 0; good && at < size; at += 256)
    good = write_entry_tile(log, dir, at / 256, std::min<std::uint64_t>(256, size - at));
  std::uint64_t n = size;
  for (unsigned level = 0; good && n > 0; ++level, n /= 256) {
    for (std::uint64_t at = 0; good && at < n; at += 256)
      good = write_hash_tile(log, dir, level, at / 256, std::min<std::uint64_t>(256, n - at));
  }
  return good ? 0 : fail(1, dir + ": cannot be written, or the log is damaged");
}

}  // namespace

std::string audit_directory(const AuditOptions& o) {
  return o.dir.empty() ? user_state_directory() + "/audit" : o.dir;
}

bool make_private_directories(const std::string& path) {
  for (std::size_t at = path.find('/', 1);; at = path.find('/', at + 1)) {
    const std::string one = path.substr(0, at);
    if (!one.empty() && ::mkdir(one.c_str(), 0700) != 0 && errno != EEXIST) return false;
    if (at == std::string::npos) return true;
  }
}

Outcome<std::unique_ptr<audit::LogReader>> open_log(const AuditOptions& o) {
  auto files = std::make_unique<audit::PosixFiles>(audit_directory(o));
  if (!files->ok())
    return Outcome<std::unique_ptr<audit::LogReader>>::because(
        audit_directory(o) + ": no such directory, or not readable");
  return audit::LogReader::open(std::move(files));
}

std::string origin_of(audit::Files& files) {
  const auto text = audit::read_small(files, "host.pub", 1u << 16);
  auto policy = audit::parse_policy(text.value_or(""));
  return policy.ok() ? policy->origin : "";
}

int audit_tail(const AuditOptions& o) {
  auto log = open_log(o);
  if (!log.ok()) return fail(1, log.problem);
  std::uint64_t at = (*log)->size();
  at = std::max((*log)->first(), at - std::min(at, o.count));
  std::signal(SIGINT, on_signal);
  for (;;) {
    for (const std::uint64_t end = (*log)->size(); at < end; ++at)
      print_entry(**log, at, o.addresses);
    std::fflush(stdout);
    if (!o.follow || stopped != 0 || std::ferror(stdout) != 0) return 0;
    ::poll(nullptr, 0, 500);
    // A new segment is seen only by who opens the directory again.
    auto again = open_log(o);
    if (again.ok()) log = std::move(again);
  }
}

int audit_export(const AuditOptions& o) {
  auto log = open_log(o);
  if (!log.ok()) return fail(1, log.problem);
  const std::string origin = origin_of((*log)->files());
  if (!o.out.empty()) return export_tiles(**log, origin, o.out);
  const std::uint64_t all = signed_size(**log, origin);
  const std::uint64_t to = o.to == 0 ? all : std::min(o.to, all);
  for (std::uint64_t i = std::max(o.from, (*log)->first()); i < to; ++i)
    print_entry(**log, i, o.addresses);
  return std::fflush(stdout) == 0 ? 0 : fail(1, "standard output cannot be written");
}

int audit_witness(const AuditOptions& o) {
  if (!make_private_directories(o.state)) return fail(1, o.state + ": cannot be made");
  audit::PosixFiles files{o.state};
  if (files.lock() != 0) return fail(1, o.state + ": another witness uses it");
  std::string text;
  if (std::FILE* const f = std::fopen(o.key.c_str(), "re")) {
    char buffer[4096];
    for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, f)) > 0;) text.append(buffer, n);
    std::fclose(f);
  }
  auto policy = audit::parse_policy(text);
  if (!policy.ok()) return fail(2, o.key + ": " + policy.problem);
  auto pem = audit::read_small(files, "witness.key", 1u << 16);
  if (!pem) {
    auto made = audit::PrivateKey::generate(audit::KeyType::kEd25519);
    if (!made || audit::replace_file(files, "witness.key", made->pem()) != 0)
      return fail(1, o.state + "/witness.key: cannot be made");
    pem = made->pem();
  }
  auto key = audit::PrivateKey::from_pem(audit::KeyType::kEd25519, *pem);
  if (!key) return fail(1, o.state + "/witness.key: not an Ed25519 key");
  std::string name = o.name;
  if (name.empty()) {
    name = audit::default_origin();
    name = name.substr(0, name.find('/')) + "/witness";
  }
  audit::Witness witness{files, name, std::move(*key), policy->log};
  fmt::print("witness {} {}\n", name, witness.vkey());
  std::fflush(stdout);
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
  audit::SystemClock clock;
  const std::string problem =
      audit::serve_witness(witness, o.socket, clock, [] { return stopped != 0; });
  return problem.empty() ? 0 : fail(1, o.socket + ": " + problem);
}

int audit_cosign(const AuditOptions& o) {
  auto log = open_log(o);
  if (!log.ok()) return fail(1, log.problem);
  std::size_t answered = 0;
  const std::string problem =
      audit::collect_cosignatures(**log, origin_of((*log)->files()), o.witnesses, answered);
  if (!problem.empty()) return fail(1, problem);
  fmt::print("{} cosignatures\n", answered);
  return 0;
}

}  // namespace bulkhead::cli
