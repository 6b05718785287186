// bulkhead audit verify | show | prove | stats | init | pack
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "audit/pack.h"
#include "audit/reader.h"
#include "audit/verify.h"
#include "cli/audit.h"
#include "cli/audit_common.h"
#include "cli/audit_token.h"
#include "cli/grant_files.h"
#include "cli/say.h"
#include "wire/lines.h"

namespace bulkhead::cli {
namespace {

using nlohmann::json;
constexpr int kNotChecked = 2;
constexpr std::size_t kMostJsonFindings = 10'000;  // a program reads them, not a person

void print_json(const audit::VerifyReport& r) {
  json findings = json::array();
  for (const audit::Finding& f : r.findings) {
    json one = {{"check", audit::check_name(f.check)}, {"index", f.index}, {"text", f.text}};
    if (f.has_lane)
      one.update({{"session", f.session}, {"lane", f.lane}, {"sequence", f.sequence}});
    findings.push_back(one);
  }
  const char* const verdict = r.exit_code() == 0   ? "intact"
                              : r.exit_code() == 1 ? "not intact"
                                                   : "not checked";
  const json out = {{"schema", 1},
                    {"verdict", verdict},
                    {"could_not", r.could_not},
                    {"findings", findings},
                    {"findings_total", r.findings_total},
                    {"remarks", r.remarks},
                    {"first", r.first},
                    {"size", r.size},
                    {"signed_size", r.signed_size},
                    {"witnessed_size", r.witnessed_size},
                    {"entries", r.entries},
                    {"records", r.records},
                    {"checkpoints", r.checkpoints},
                    {"epochs", r.epochs},
                    {"sessions", r.sessions},
                    {"grants", r.grants},
                    {"tokens", r.tokens},
                    {"unknown_keys", r.unknown_keys},
                    {"denied", r.denied},
                    {"violations", r.violations},
                    {"observed", r.observed},
                    {"bytes", r.bytes}};
  fmt::print("{}\n", out.dump(-1, ' ', false, json::error_handler_t::replace));
}

// What a log says was written by many: cleaned before a terminal sees it.
std::string clean(const std::string& text) { return wire::clean_text(text.c_str(), text.size()); }

void print_report(const audit::VerifyReport& r) {
  for (const audit::Finding& f : r.findings) fmt::print("{}\n", clean(audit::finding_text(f)));
  if (r.findings_total > r.findings.size())
    fmt::print("... and {} more\n", r.findings_total - r.findings.size());
  for (const std::string& text : r.remarks) fmt::print("note: {}\n", clean(text));
  if (!r.could_not.empty()) {
    fmt::print("not checked: {}\n", clean(r.could_not));
    return;
  }
  fmt::print(
      "{}: indices {} to {}, {} transfers and marks, {} records, {} epochs, {} checkpoints; signed "
      "up to {}",
      r.findings_total == 0 ? "intact" : "NOT INTACT", r.first, r.size, r.entries, r.records,
      r.epochs, r.checkpoints, r.signed_size);
  if (r.witnessed_size > 0) fmt::print(", witnessed up to {}", r.witnessed_size);
  fmt::print("\n{} bytes moved; {} denied, {} violations, {} without a grant under observe\n",
             r.bytes, r.denied, r.violations, r.observed);
  if (r.tokens > 0) fmt::print("{} grants' tokens verified again\n", r.tokens);
}

std::string read_text(const std::string& path, bool& ok) {
  std::ifstream in{path, std::ios::binary};
  ok = in.good();
  return {std::istreambuf_iterator<char>{in}, {}};
}

Outcome<audit::TrustPolicy> read_policy(const std::string& path) {
  using Result = Outcome<audit::TrustPolicy>;
  bool ok = false;
  const std::string text = read_text(path, ok);
  if (!ok) return Result::because(path + ": cannot be read");
  auto policy = audit::parse_policy(text);
  if (!policy.ok()) return Result::because(path + ": " + policy.problem);
  return policy;
}

int check_file(const AuditOptions& o) {
  if (o.key.empty()) return fail(kNotChecked, "prove --check needs --key FILE");
  auto policy = read_policy(o.key);
  if (!policy.ok()) return fail(kNotChecked, policy.problem);
  bool ok = false;
  const std::string text = read_text(o.file, ok);
  if (!ok) return fail(kNotChecked, o.file + ": cannot be read");
  std::string shown;
  const std::string problem = audit::check_proof(text, *policy, shown);
  if (!problem.empty()) return fail(1, "the proof does not hold: " + problem);
  fmt::print("{}\n", clean(shown));
  return 0;
}

}  // namespace

int audit_verify(const AuditOptions& o) {
  audit::VerifyOptions options;
  auto policy = read_policy(o.key);
  if (!policy.ok()) return fail(kNotChecked, policy.problem);
  options.policy = std::move(*policy);
  bool ok = true;
  if (!o.trusted.empty()) options.trusted = read_text(o.trusted, ok);
  if (!ok || (!o.trusted.empty() && options.trusted.empty()))
    return fail(kNotChecked, o.trusted + ": cannot be read");
  grant::KeySet keys;
  if (!o.jwks.empty()) {
    std::string text;
    if (const std::string p = read_small(o.jwks, grant::kMostJwksBytes, text); !p.empty())
      return fail(kNotChecked, p);
    auto parsed = grant::KeySet::parse(text);
    if (!parsed.ok()) return fail(kNotChecked, o.jwks + ": " + parsed.problem);
    keys = std::move(*parsed);
    options.check_token = [&keys](const std::string& record, std::string& why) {
      return check_token(keys, record, why);
    };
  }
  audit::PosixFiles files{audit_directory(o)};
  if (!files.ok())
    return fail(kNotChecked, audit_directory(o) + ": no such directory, or not readable");
  if (o.json) options.most_findings = kMostJsonFindings;
  const audit::VerifyReport report = audit::verify_log(files, options);
  o.json ? print_json(report) : print_report(report);
  return report.exit_code();
}

int audit_show(const AuditOptions& o) {
  auto log = open_log(o);
  if (!log.ok()) return fail(kNotChecked, log.problem);
  // Only what was checked is shown (what a reader sees and what was verified must be the same bytes).
  const std::string origin = origin_of((*log)->files());
  const auto proof = audit::make_proof(**log, origin, o.index);
  if (!proof.ok()) return fail(1, proof.problem);
  const auto entry = (*log)->entry(o.index);
  fmt::print("{}\n", clean(audit::entry_json(o.index, *entry, o.addresses)));
  return 0;
}

int audit_prove(const AuditOptions& o) {
  if (!o.file.empty()) return check_file(o);
  auto log = open_log(o);
  if (!log.ok()) return fail(kNotChecked, log.problem);
  auto proof = audit::make_proof(**log, origin_of((*log)->files()), o.index);
  if (!proof.ok()) return fail(1, proof.problem);
  if (o.out.empty()) {
    std::fputs((*proof).c_str(), stdout);
    return 0;
  }
  std::ofstream out{o.out, std::ios::binary};
  out << *proof;
  return out.flush() ? 0 : fail(kNotChecked, o.out + ": cannot be written");
}

int audit_stats(const AuditOptions& o) {
  auto log = open_log(o);
  if (!log.ok()) return fail(kNotChecked, log.problem);
  audit::Files& files = (*log)->files();
  const std::string origin = origin_of(files);
  std::size_t used = 0, segments = 0, packed = 0;
  const auto note = audit::parse_note((*log)->last_checkpoint(origin), used);
  const auto checkpoint = note ? audit::parse_checkpoint(note->text) : std::nullopt;
  std::uint64_t bytes = 0;
  for (const std::string& name : files.list("segment")) {
    int error = 0;
    const auto file = files.open("segment/" + name, audit::OpenMode::kRead, error);
    bytes += file == nullptr ? 0 : file->size();
    segments += name.ends_with(".data");
    packed += name.ends_with(".zst");
  }
  const std::uint64_t signed_size = checkpoint ? checkpoint->size : 0;
  if (o.json) {
    const json out = {{"schema", 1},
                      {"origin", origin},
                      {"first", (*log)->first()},
                      {"size", (*log)->size()},
                      {"signed_size", signed_size},
                      {"segments", segments},
                      {"packed", packed},
                      {"bytes", bytes}};
    fmt::print("{}\n", out.dump(-1, ' ', false, json::error_handler_t::replace));
    return 0;
  }
  fmt::print(
      "log       {}\nentries   {} to {}, signed up to {}\nsegments  {}, and {} packed\nbytes     "
      "{}\n",
      clean(origin), (*log)->first(), (*log)->size(), signed_size, segments, packed, bytes);
  return 0;
}

int audit_init(const AuditOptions& o) {
  const std::string directory = audit_directory(o);
  if (!make_private_directories(directory)) return fail(1, directory + ": cannot be made");
  audit::PosixFiles files{directory};
  const std::string origin = o.origin.empty() ? audit::default_origin() : o.origin;
  if (origin.find_first_of(" +\n\t") != std::string::npos)
    return fail(kExitUsage, "--origin " + origin + ": no spaces and no '+'");
  auto key = audit::make_host_key(files, origin);
  if (!key.ok()) return fail(1, directory + ": " + key.problem);
  fmt::print("{}", audit::policy_text(origin, *key));
  return 0;
}

int audit_pack(const AuditOptions& o) {
  auto log = open_log(o);
  if (!log.ok()) return fail(1, log.problem);
  audit::Files& files = (*log)->files();
  std::vector<std::uint64_t> plain;
  for (const std::string& name : files.list("segment")) {
    if (const auto first = audit::segment_first(name, ".data")) plain.push_back(*first);
  }
  // The newest one is the writer's; the one before it may hold the last signed size and is left as well.
  int code = 0;
  for (std::size_t i = 0; i + 2 < plain.size(); ++i) {
    audit::PackResult result;
    const std::string problem = audit::pack_segment(files, plain[i], result);
    if (!problem.empty()) {
      code = fail(1, problem);
      continue;
    }
    fmt::print("{}: {} bytes are now {}\n", audit::segment_name(plain[i]), result.raw_bytes,
               result.packed_bytes);
  }
  return code;
}

}  // namespace bulkhead::cli
