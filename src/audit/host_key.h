// The host key of a log (host.key, 0600), what is public of it (host.pub), and the policy file an auditor holds.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "audit/files.h"
#include "audit/note.h"
#include "base/outcome.h"

namespace bulkhead::audit {

struct HostKey {
  PrivateKey ed25519;
  PrivateKey p256;
};

// Whom an auditor believes: keys of the log, witnesses, and how many of them must have cosigned.
struct TrustPolicy {
  std::string origin;
  std::vector<VerifierKey> log;      // types 1 and 2, all of the name `origin`
  std::vector<VerifierKey> witness;  // type 4
  std::size_t quorum = 0;
  bool epochs_only = false;  // `epochs-only`: checkpoints without the host's lines are in order
  [[nodiscard]] const VerifierKey* host() const noexcept;  // the Ed25519 one; null if there is none
};
[[nodiscard]] Outcome<TrustPolicy> parse_policy(const std::string& text);
[[nodiscard]] std::string policy_text(const std::string& origin, const HostKey& key);

// Makes host.key and host.pub; a directory that has a host.key is left alone (problem).
[[nodiscard]] Outcome<HostKey> make_host_key(Files& files, const std::string& origin);
// None and no problem: there is no host.key.
[[nodiscard]] std::optional<HostKey> read_host_key(Files& files);
// "HOSTNAME/bulkhead".
[[nodiscard]] std::string default_origin();

}  // namespace bulkhead::audit
