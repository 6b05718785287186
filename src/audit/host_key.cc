#include "audit/host_key.h"

#include <unistd.h>

#include <cstring>

namespace bulkhead::audit {
namespace {

std::vector<std::string> words_of(std::string_view line) {
  std::vector<std::string> out;
  while (!line.empty()) {
    const std::size_t begin = line.find_first_not_of(" \t\r");
    if (begin == std::string_view::npos || line[begin] == '#') break;
    const std::size_t end = std::min(line.find_first_of(" \t\r", begin), line.size());
    out.emplace_back(line.substr(begin, end - begin));
    line.remove_prefix(end);
  }
  return out;
}

bool take(TrustPolicy& policy, const std::vector<std::string>& word) {
  if (word.empty()) return true;
  if (word[0] == "epochs-only" && word.size() == 1) {
    policy.epochs_only = true;
    return true;
  }
  if (word[0] == "quorum" && word.size() == 2) {
    const auto n = parse_decimal(word[1]);
    if (n) policy.quorum = static_cast<std::size_t>(*n);
    return n.has_value();
  }
  const bool witness = word[0] == "witness" && word.size() == 3;
  const bool log = (word[0] == "log" && word.size() == 2) || word.size() == 1;
  auto key = witness || log ? parse_vkey(word.back()) : std::nullopt;
  if (!key || witness != (key->type == LineType::kCosignature)) return false;
  if (log && !policy.origin.empty() && policy.origin != key->name) return false;
  if (log) policy.origin = key->name;
  (witness ? policy.witness : policy.log).push_back(std::move(*key));
  return true;
}

}  // namespace

const VerifierKey* TrustPolicy::host() const noexcept {
  for (const VerifierKey& key : log) {
    if (key.type == LineType::kEd25519) return &key;
  }
  return nullptr;
}

Outcome<TrustPolicy> parse_policy(const std::string& text) {
  using Result = Outcome<TrustPolicy>;
  TrustPolicy policy;
  std::string_view rest = text;
  for (unsigned line = 1; !rest.empty(); ++line) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    if (!take(policy, words_of(rest.substr(0, end))))
      return Result::because(
          "line " + std::to_string(line) +
          " is neither `log VKEY`, `witness NAME VKEY`, `quorum N` nor `epochs-only`");
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  if (policy.host() == nullptr) return Result::because("no Ed25519 key of a log in it");
  if (policy.quorum > policy.witness.size())
    return Result::because("the quorum is larger than the number of witnesses");
  return policy;
}

std::string policy_text(const std::string& origin, const HostKey& key) {
  return "log " + vkey_text(verifier_key(origin, LineType::kEd25519, key.ed25519.public_key())) +
         "\nlog " + vkey_text(verifier_key(origin, LineType::kEcdsa, key.p256.public_key())) + "\n";
}

std::optional<HostKey> read_host_key(Files& files) {
  const auto text = read_small(files, "host.key", 1u << 16);
  if (!text) return std::nullopt;
  auto ed25519 = PrivateKey::from_pem(KeyType::kEd25519, *text);
  auto p256 = PrivateKey::from_pem(KeyType::kP256, *text);
  if (!ed25519 || !p256) return std::nullopt;
  return HostKey{std::move(*ed25519), std::move(*p256)};
}

Outcome<HostKey> make_host_key(Files& files, const std::string& origin) {
  using Result = Outcome<HostKey>;
  int error = 0;
  if (files.open("host.key", OpenMode::kRead, error) != nullptr)
    return Result::because("there is a host.key already");
  auto ed25519 = PrivateKey::generate(KeyType::kEd25519);
  auto p256 = PrivateKey::generate(KeyType::kP256);
  if (!ed25519 || !p256) return Result::because("OpenSSL made no key");
  HostKey key{std::move(*ed25519), std::move(*p256)};
  // The secret half first: from it the public one can be made again, not the other way round.
  error = replace_file(files, "host.key", key.ed25519.pem() + key.p256.pem());
  if (error == 0) error = replace_file(files, "host.pub", policy_text(origin, key));
  if (error != 0) return Result::because(std::string{"host.key: "} + std::strerror(error));
  return key;
}

std::string default_origin() {
  char name[256] = {};
  if (::gethostname(name, sizeof name - 1) != 0 || name[0] == 0) std::strcpy(name, "localhost");
  return std::string{name} + "/bulkhead";
}

}  // namespace bulkhead::audit
