// Inside of the verifier: what its parts share.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>

#include "audit/grant_check.h"
#include "audit/note.h"
#include "audit/segment.h"
#include "audit/tree.h"
#include "audit/verify.h"

namespace bulkhead::audit {

// Collects findings; knows which checks are off.
class Findings {
 public:
  Findings(const VerifyOptions& options, VerifyReport& report)
      : options_(options), report_(report) {}
  void add(Finding finding);
  void add(Check check, std::uint64_t index, std::string text) {
    Finding f;
    f.check = check;
    f.index = index;
    f.text = std::move(text);
    add(std::move(f));
  }
  void remark(std::string text) {
    if (report_.remarks.size() < 100) report_.remarks.push_back(std::move(text));
  }
  [[nodiscard]] bool on(Check check) const noexcept {
    return !options_.off[static_cast<std::size_t>(check)];
  }

 private:
  const VerifyOptions& options_;
  VerifyReport& report_;
};

// Notes of a file, one after another, in bounded memory.
class NoteStream {
 public:
  explicit NoteStream(std::unique_ptr<File> file) : file_(std::move(file)) {}
  // The next note; none at the end. `problem` if what is left is not one.
  std::optional<Note> next(std::string& problem);
  [[nodiscard]] bool at_end() const noexcept { return at_ == buffer_.size(); }

 private:
  bool fill();
  std::unique_ptr<File> file_;
  std::string buffer_;
  std::size_t at_ = 0;
  std::uint64_t offset_ = 0;
};

// Epoch keys: who was due to sign which size (I1, I2).
class KeyChain {
 public:
  KeyChain(const VerifyOptions& options, Findings& findings)
      : options_(options), findings_(findings) {}
  // True if the epoch before needs its seal now.
  bool take(const KeyRecord& record, std::uint64_t index);
  void check_epoch_line(const Note& note, std::uint64_t size, const std::string& origin);
  // Segments were removed: the first keys may lie in them.
  void begin_in_the_middle() noexcept { partial_ = true; }

 private:
  struct Key {
    std::uint64_t epoch = 0, index = 0, utc_ns = 0;
    bool by_host = false;
    std::optional<PublicKey> key;
  };
  const VerifyOptions& options_;
  Findings& findings_;
  Key now_, before_;
  std::uint64_t epochs_ = 0;
  bool partial_ = false;
};

// Sessions, lanes, clocks and grants.
class Ledger {
 public:
  Ledger(const VerifyOptions& options, VerifyReport& report, Findings& findings)
      : options_(options), report_(report), findings_(findings) {}
  void entry(const abi::AuditEntry& entry, std::uint64_t index);
  void record(const Record& record, std::uint64_t index);
  // A key record: no entry since the one before may be later (I3).
  void epoch_begins(const KeyRecord& key, std::uint64_t index);
  void finish();
  // Segments were removed: sessions may have begun before what is left.
  void begin_in_the_middle() noexcept { partial_ = true; }

 private:
  struct Lane {
    std::uint64_t next = 0, last_ns = 0;
    bool known = true;
    std::uint64_t back_ns = 0;  // of the announced steps back, what this lane has taken
  };
  struct Session {
    SessionRecord record;
    bool known = true;
    bool own_enforce = false;        // stricter than its tenant, by its own word
    std::uint32_t mode_changes = 0;  // its tenant's, before it began
    std::uint64_t back_ns = 0;
    std::unordered_map<std::uint16_t, Lane> lanes;
  };
  struct TenantMode {
    std::uint32_t mode = 0;
    std::uint64_t utc_ns = 0;
    bool was_observe = true;    // before it
    std::uint32_t changes = 0;  // records that said something new
  };
  Session* session_of(const abi::AuditEntry& entry, std::uint64_t index);
  void check_sequence(const abi::AuditEntry& entry, Lane& lane, std::uint64_t index);
  void check_clock(const abi::AuditEntry& entry, Lane& lane, std::uint64_t index);
  void check_grant(const abi::AuditEntry& entry, const Session& session, std::uint64_t index);
  void end(const SessionEndRecord& end, std::uint64_t index);
  void take_session(const SessionRecord& session, std::uint64_t index);
  void take_grant(const GrantRecord& grant, std::uint64_t index);
  void take_mode(const ModeRecord& mode);
  void check_token(const GrantRecord& grant, std::uint64_t index);
  [[nodiscard]] bool may_observe(const Session& session, std::uint64_t utc_ns) const;
  void boot(const BootRecord& boot, std::uint64_t index);
  Finding at(Check check, const abi::AuditEntry& entry, std::uint64_t index, std::string text);

  const VerifyOptions& options_;
  VerifyReport& report_;
  Findings& findings_;
  std::unordered_map<std::uint32_t, Session> sessions_;
  std::unordered_map<std::uint32_t, KnownGrant> grants_;
  std::unordered_map<std::string, TenantMode> modes_;
  std::uint32_t last_session_ = 0;
  // The lane and the grant looked up last: entries come in runs.
  Session* session_ = nullptr;
  Lane* lane_ = nullptr;
  KnownGrant* grant_ = nullptr;
  std::uint32_t lane_session_ = 0, grant_serial_ = 0;
  std::uint16_t lane_number_ = 0;
  std::string boot_id_;
  std::uint64_t clock_back_ns_ = 0;                 // sum of the announced steps back
  std::uint64_t epoch_back_[2] = {};                // of them, in this epoch and in the one before
  std::uint64_t latest_ns_ = 0, latest_index_ = 0;  // of this epoch
  std::uint64_t latest_sequence_ = 0;
  std::uint32_t latest_session_ = 0;
  std::uint16_t latest_lane_ = 0;
  bool partial_ = false;
};

}  // namespace bulkhead::audit
