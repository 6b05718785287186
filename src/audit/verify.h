// The verifier: everything docs/formats/log.md promises, from the directory and public keys alone. It reads as a stream;
// memory is bounded by open sessions and living grants, not by the log.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "audit/files.h"
#include "audit/host_key.h"

namespace bulkhead::audit {

// Each check of the verifier, by the name it reports. A test switches them off one by one and sees what passes then.
enum class Check : std::uint8_t {
  kSegments,        // every segment is there from the retained index on, and follows the one before
  kEntryForm,       // an entry has its form
  kRecordForm,      // a record is canonical JSON with the members it needs
  kJournal,         // batches as the journal has them
  kTreeFiles,       // stored hashes are those of the entries
  kCheckpointForm,  // every checkpoint can be read and is of this origin
  kOrder,           // sizes of checkpoints never fall
  kSize,            // as many entries as were signed
  kRoot,            // each signed root is that of the entries
  kSignature,       // host's lines
  kEpochSignature,  // the line of the epoch that was due (I1)
  kKeyChain,        // each key was certified by the one before, or by the host (I2)
  kSeal,            // each epoch has its seal (I2)
  kEpochTime,       // no entry is later than its epoch (I3)
  kSession,         // an entry's session is known and open
  kSequence,        // sequences of a lane without a gap, none twice
  kSessionEnd,      // a session's end names the sequences that are there
  kGap,             // entries that are known to be lost
  kClock,           // time does not go back in a lane
  kGrant,           // each allowed entry's grant allowed it
  kToken,           // the token of each grant, if its keys were given
  kBoot,            // a boot record names the size at which it stands
  kTrusted,         // the log continues what the auditor holds a checkpoint of
  kWitness,         // cosignatures are good, and as many as the policy wants
  kCount,
};
[[nodiscard]] const char* check_name(Check check) noexcept;

struct Finding {
  Check check{};
  std::uint64_t index = 0;
  bool has_lane = false;  // then session, lane and sequence say more
  std::uint32_t session = 0;
  std::uint16_t lane = 0;
  std::uint64_t sequence = 0;
  std::string text;
};
[[nodiscard]] std::string finding_text(const Finding& finding);

struct VerifyOptions {
  TrustPolicy policy;
  std::string trusted;  // a checkpoint the auditor kept (a note), or ""
  // With the issuer's keys: whether a grant's record (its JSON) is what its token says. Layers above give it; null: not looked at.
  enum class Token : std::uint8_t { kGood, kBad, kUnknownKey };
  std::function<Token(const std::string& record, std::string& why)> check_token;
  std::size_t most_findings = 20;
  std::uint64_t clock_back_ns = 1'000'000'000;             // in a lane
  std::uint64_t epoch_skew_ns = 2'000'000'000;             // I3
  bool off[static_cast<std::size_t>(Check::kCount)] = {};  // for tests only
};

struct VerifyReport {
  std::string could_not;  // why it could not be checked; otherwise ""
  std::vector<Finding> findings;
  std::vector<std::string> remarks;
  std::uint64_t findings_total = 0;
  std::uint64_t first = 0, size = 0, signed_size = 0, witnessed_size = 0;
  std::uint64_t entries = 0, records = 0, checkpoints = 0, epochs = 0, sessions = 0, grants = 0;
  std::uint64_t tokens = 0, unknown_keys = 0;  // verified; not, for want of the key
  std::uint64_t denied = 0, violations = 0, observed = 0, bytes = 0;
  [[nodiscard]] int exit_code() const noexcept {
    return findings_total > 0 ? 1 : could_not.empty() ? 0 : 2;
  }
};
[[nodiscard]] VerifyReport verify_log(Files& files, const VerifyOptions& options);

}  // namespace bulkhead::audit
