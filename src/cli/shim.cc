#include "cli/shim.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

#include "base/fd.h"
#include "cli/grant_files.h"
#include "cli/install.h"
#include "cli/say.h"
#include "grant/shim.h"

namespace bulkhead::cli {
namespace {

constexpr std::size_t kMostLibrary = 64u << 20;
constexpr std::size_t kMostPem = 64u << 10;

int bad(const std::string& text) { return fail(kExitProblem, text); }

std::string digest_of(const std::string& path, std::string& problem) {
  std::string bytes;
  problem = read_small(path, kMostLibrary, bytes);
  return problem.empty() ? grant::sha256_hex(bytes) : "";
}

int sign(const ShimOptions& o) {
  grant::Manifest m;
  m.version = o.version;
  m.minimum = o.minimum.empty() ? o.version : o.minimum;
  std::string problem, key, certificate;
  const std::string library = o.library.empty() ? find_library() : o.library;
  m.files[grant::kShimLibrary] = digest_of(library, problem);
  if (problem.empty() && !o.daemon.empty())
    m.files[grant::kShimDaemon] = digest_of(o.daemon, problem);
  if (problem.empty()) problem = read_small(o.key, kMostPem, key);
  if (problem.empty()) problem = read_small(o.certificate, kMostPem, certificate);
  if (!problem.empty()) return bad(problem);
  const std::string manifest = grant::to_json(m);
  if (const auto again = grant::manifest_from(manifest); !again.ok())
    return fail(kExitUsage, again.problem);
  const auto signature = grant::sign_manifest(manifest, key, certificate);
  if (!signature.ok()) return bad(signature.problem);
  problem = write_small(o.out, manifest, 0644, false);
  if (problem.empty()) problem = write_small(o.out + ".p7s", *signature.value, 0644, false);
  if (!problem.empty()) return bad(problem);
  for (const auto& [name, digest] : m.files) fmt::print("{}  {}\n", digest, name);
  fmt::print("version {}, nothing below {}: {} and {}.p7s\n", m.version, m.minimum, o.out, o.out);
  return kExitOk;
}

int check(const ShimOptions& o) {
  std::string manifest, signature, root;
  std::string problem = read_small(o.manifest, kMostPem, manifest);
  if (problem.empty()) problem = read_small(o.manifest + ".p7s", kMostPem, signature);
  if (problem.empty()) problem = read_small(o.root, kMostPem, root);
  if (!problem.empty()) return bad(problem);
  const auto m = grant::verify_manifest(manifest, signature, root);
  if (!m.ok()) return bad(o.manifest + ": " + m.problem);
  fmt::print("signature good, version {}, nothing below {}\n", m.value->version, m.value->minimum);
  int code = kExitOk;
  const auto compare = [&](const std::string& path, const char* name) {
    if (path.empty()) return;
    const auto wanted = m.value->files.find(name);
    const std::string has = digest_of(path, problem);
    const bool same = wanted != m.value->files.end() && problem.empty() && has == wanted->second;
    fmt::print("{}  {}\n", path, same ? "is what was signed" : "IS NOT WHAT WAS SIGNED");
    if (!same) code = kExitProblem;
  };
  compare(o.library, grant::kShimLibrary);
  compare(o.daemon, grant::kShimDaemon);
  return code;
}

}  // namespace

std::string signed_library(const shm::Dir& dir, std::string& problem) {
  const UniqueFd fd{::openat(dir.fd.get(), "shim", O_RDONLY | O_CLOEXEC | O_NOFOLLOW)};
  struct stat st {
  }, above{};
  if (!fd.ok()) return "";
  char line[4096] = {};
  const ssize_t got = ::read(fd.get(), line, sizeof line - 1);
  const bool ours = ::fstat(fd.get(), &st) == 0 && ::fstat(dir.fd.get(), &above) == 0 &&
                    S_ISREG(st.st_mode) && (st.st_uid == 0 || st.st_uid == above.st_uid);
  std::string path = got > 0 ? std::string{line} : "";
  while (!path.empty() && path.back() == '\n') path.pop_back();
  const std::string tail = "/libbulkhead.so";
  if (!ours || !path.starts_with('/') || !path.ends_with(tail) || path.size() < 65 + tail.size()) {
    problem = std::string{dir.path} + "/shim does not name a verified library: restart bulkheadd";
    return "";
  }
  const std::string wanted = path.substr(path.size() - tail.size() - 64, 64);
  const std::string has = digest_of(path, problem);
  if (problem.empty() && has != wanted)
    problem = path + " was changed after it was verified: restart bulkheadd, which copies it anew";
  return problem.empty() ? path : "";
}

int shim(const std::string& which, const ShimOptions& options) {
  return which == "sign" ? sign(options) : check(options);
}

}  // namespace bulkhead::cli
