// The gate's operations of the audit: under a daemon of the gate's own, with a trust file and a grant of the gate's own; and the log.
#include <sys/wait.h>
#include <time.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "bench/daemon.h"
#include "bench/gate_count.h"
#include "grant/token.h"

namespace bulkhead::bench {
namespace {

namespace fs = std::filesystem;
constexpr std::uint64_t kFewCopies = 50, kManyCopies = 250;
constexpr std::uint64_t kFewEntries = 2'048, kManyEntries = 18'432;

// What a command of ours prints; "" if it fails.
std::string said(const Lab& lab, const std::string& words) {
  std::string command = "env -i";
  for (const std::string& e : lab.environment(Variant{}, Tenant{}, "env"))
    command += " '" + e + "'";
  command += " '" + lab.build + "/bin/bulkhead' " + words;
  std::FILE* out = ::popen(command.c_str(), "r");  // NOLINT: our own program
  if (out == nullptr) return "";
  std::string text;
  char part[4096];
  for (std::size_t n = 0; (n = std::fread(part, 1, sizeof part, out)) > 0;) text.append(part, n);
  return ::pclose(out) == 0 ? text : "";
}

// A grant for all that a copy to the device needs, and what the daemon must trust for it.
bool issue(const Lab& lab, const std::string& gpu, const std::string& jwks,
           const std::string& file) {
  auto key = grant::new_key();
  if (!key.ok()) return false;
  std::ofstream(jwks) << "{\"keys\":[" << grant::to_jwk(*key, "gate") << "]}";
  grant::Grant g;
  g.issuer = "gate";
  g.subject = "gate";
  g.audience = "gate";
  g.id = grant::new_id();
  g.kid = "gate";
  g.issued_s = g.not_before_s = ::time(nullptr);
  g.expires_s = g.issued_s + grant::kMostLife_s;
  g.actions = grant::kH2d;
  g.locations = {gpu};
  g.datatypes = {"gate"};
  std::ofstream(file) << grant::issue(g, *key) << '\n';
  return !lab.build.empty();
}

// Few and many of the same, over the difference. Negative: it could not be counted.
double each(const Lab& lab, const Variant& v, const Tenant& t, Counted what, std::uint64_t few,
            std::uint64_t many) {
  std::uint64_t of_few = 0, of_many = 0;
  what.params.set("op", what.op);
  what.params.set("n", few);
  if (!count_instructions(lab, v, t, what, of_few)) return -1;
  what.params.set("n", many);
  if (!count_instructions(lab, v, t, what, of_many)) return -1;
  return std::round((static_cast<double>(of_many) - static_cast<double>(of_few)) /
                    static_cast<double>(many - few) * 10) /
         10;
}

double granted_copy(const Lab& beside, const Variant& ours) {
  Lab lab = beside;
  lab.scratch += "/granted";
  fs::create_directories(lab.scratch + "/state");
  fs::permissions(lab.scratch, fs::perms::owner_all);
  const auto status = nlohmann::json::parse(said(lab, "status --json"), nullptr, false);
  if (!status.is_object() || !status.contains("gpus") || status["gpus"].empty()) return -1;
  std::string gpu = status["gpus"][0].value("uuid", "");
  if (!gpu.starts_with("GPU-")) gpu = "GPU-" + gpu;
  const std::string jwks = lab.scratch + "/jwks.json", token = lab.scratch + "/grant.jwt";
  if (!issue(lab, gpu, jwks, token)) return -1;
  const Tenant t = lab.make_tenant(8 * kGiB);
  const Daemon daemon(
      lab, {t},
      "audit = \"enforce\"\ngrant_subject = \"gate\"\n[audit]\ndeadline_ms = 60000\n"
      "[trust]\naudience = \"gate\"\njwks = \"" +
          jwks + "\"\n");
  if (!daemon.error().empty()) {
    std::fprintf(stderr, "bulkhead-bench: %s\n", daemon.error().c_str());
    return -1;
  }
  if (said(lab, "grant renew " + t.name + " " + token).empty()) return -1;
  Params p;
  p.set("most", kManyCopies);
  p.set("quota", t.quota_bytes);
  return each(lab, ours, t, {"gate", "copy", p}, kFewCopies, kManyCopies);
}

}  // namespace

bool gate_audit(const Lab& lab, const Variant& ours,
                const std::function<void(const std::string&, double)>& tell) {
  const double copy = granted_copy(lab, ours);
  if (copy >= 0) tell("copy_granted", copy);
  const Tenant t = lab.make_tenant(8 * kGiB);
  Params p;
  p.set("dir", t.dir + "/log");
  // the hash's own instructions depend on what the processor has, and valgrind hides the best of it
  const Counted drain{"log", "drain", p, 2, "bulkhead-bench", "compress"};
  const Counted verify{"log", "verify", p, 2, "bulkhead-bench", "compress"};
  const double drained = each(lab, Variant{}, t, drain, kFewEntries, kManyEntries);
  if (drained >= 0) tell("lane_to_tree", drained);
  const double verified = each(lab, Variant{}, t, verify, kFewEntries, kManyEntries);
  if (verified >= 0) tell("verify_entry", verified);
  lab.drop_tenant(t);
  return copy >= 0 && drained >= 0 && verified >= 0;
}

}  // namespace bulkhead::bench
