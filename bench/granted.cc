#include "bench/granted.h"

#include <sys/wait.h>
#include <time.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "grant/token.h"

namespace bulkhead::bench {
namespace {

namespace fs = std::filesystem;

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

std::string first_gpu(const Lab& lab) {
  const auto status = nlohmann::json::parse(said(lab, "status --json"), nullptr, false);
  if (!status.is_object() || !status.contains("gpus") || status["gpus"].empty()) return "";
  const std::string uuid = status["gpus"][0].value("uuid", "");
  return uuid.starts_with("GPU-") ? uuid : "GPU-" + uuid;
}

// A grant as long as one can be, and what the daemon must trust for it.
bool issue(const std::string& gpu, const std::string& jwks, const std::string& file) {
  auto key = grant::new_key();
  if (!key.ok()) return false;
  std::ofstream(jwks) << "{\"keys\":[" << grant::to_jwk(*key, "bench") << "]}";
  grant::Grant g;
  g.issuer = g.subject = g.audience = g.kid = "bench";
  g.id = grant::new_id();
  g.issued_s = g.not_before_s = ::time(nullptr);
  g.expires_s = g.issued_s + grant::kMostLife_s;
  g.actions = grant::kH2d | grant::kD2h | grant::kSet | grant::kMap;
  g.locations = {gpu};
  g.datatypes = {"bench"};
  const std::string token = grant::issue(g, *key);
  std::ofstream(file) << token << '\n';
  return !token.empty();
}

}  // namespace

Granted::Granted(const Lab& beside, const std::string& name, const std::vector<Tenant>& others,
                 bool latency)
    : lab_(beside) {
  lab_.scratch += "/" + name;
  fs::create_directories(lab_.scratch + "/state");
  fs::permissions(lab_.scratch, fs::perms::owner_all);
  const std::string jwks = lab_.scratch + "/jwks.json", token = lab_.scratch + "/grant.jwt";
  const std::string gpu = first_gpu(lab_);
  if (gpu.empty() || !issue(gpu, jwks, token)) {
    error_ = "no grant could be made";
    return;
  }
  tenant_ = lab_.make_tenant(8 * kGiB);
  tenant_.latency = latency;
  std::vector<Tenant> tenants = others;
  tenants.push_back(tenant_);  // the last: what follows are its lines
  daemon_ = std::make_unique<Daemon>(
      lab_, tenants,
      "audit = \"enforce\"\ngrant_subject = \"bench\"\n[audit]\ndeadline_ms = 60000\n"
      "[trust]\naudience = \"bench\"\njwks = \"" +
          jwks + "\"\n");
  error_ = daemon_->error();
  if (error_.empty() && said(lab_, "grant renew " + tenant_.name + " " + token).empty())
    error_ = "the grant was refused";
}

}  // namespace bulkhead::bench
