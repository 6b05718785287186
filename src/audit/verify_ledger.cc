// Sessions, lanes, clocks, grants: the rules of docs/formats/log.md, one function each.
#include <algorithm>

#include "audit/verify_state.h"

namespace bulkhead::audit {
namespace {

constexpr std::uint64_t kSecondNs = 1'000'000'000;
// A process looks at its mode each second; one that was stopped, later.
constexpr std::uint64_t kModeLagNs = 60 * kSecondNs;
std::string text_of(std::uint64_t n) { return std::to_string(n); }

}  // namespace

Finding Ledger::at(Check check, const abi::AuditEntry& entry, std::uint64_t index,
                   std::string text) {
  return {check,
          index,
          true,
          std::uint32_t{entry.session},
          std::uint16_t{entry.lane},
          abi::sequence_of(entry),
          std::move(text)};
}

Ledger::Session* Ledger::session_of(const abi::AuditEntry& entry, std::uint64_t index) {
  const auto found = sessions_.find(std::uint32_t{entry.session});
  if (found != sessions_.end()) return &found->second;
  if (!partial_) {
    findings_.add(
        at(Check::kSession, entry, index, "its session has no record before it, or has ended"));
  }
  // Once is enough: the session counts as known from here on, its lanes begin where they are.
  Session& made = sessions_[std::uint32_t{entry.session}];
  made.record.serial = entry.session;
  made.known = false;
  return &made;
}

void Ledger::entry(const abi::AuditEntry& entry, std::uint64_t index) {
  ++report_.entries;
  if (entry.version_kind >> 4 != abi::kEntryVersion || (entry.version_kind & 15) == 0 ||
      (entry.version_kind & 15) > static_cast<std::uint8_t>(abi::EntryKind::kGap)) {
    findings_.add(Check::kEntryForm, index, "not an entry of this format");
    return;
  }
  if (lane_ == nullptr || lane_session_ != entry.session || lane_number_ != entry.lane) {
    session_ = session_of(entry, index);
    const auto [lane, fresh] = session_->lanes.try_emplace(std::uint16_t{entry.lane});
    if (fresh) {
      lane->second.known = session_->known;
      lane->second.last_ns = session_->record.utc_ns;  // no entry before its session
      lane->second.back_ns = session_->back_ns;
    }
    lane_ = &lane->second;
    lane_session_ = entry.session;
    lane_number_ = entry.lane;
  }
  check_sequence(entry, *lane_, index);
  check_clock(entry, *lane_, index);
  if (entry.utc_ns > latest_ns_) {
    latest_ns_ = entry.utc_ns;
    latest_index_ = index;
    latest_session_ = entry.session;
    latest_lane_ = entry.lane;
    latest_sequence_ = abi::sequence_of(entry);
  }
  const abi::EntryKind kind = abi::kind_of(entry);
  if (kind == abi::EntryKind::kGap) {
    findings_.add(at(Check::kGap, entry, index,
                     text_of(abi::bytes_of(entry)) + " entries were not recorded"));
  } else if (kind == abi::EntryKind::kTransfer || kind == abi::EntryKind::kMap) {
    check_grant(entry, *session_, index);
  }
}

void Ledger::check_sequence(const abi::AuditEntry& entry, Lane& lane, std::uint64_t index) {
  const std::uint64_t sequence = abi::sequence_of(entry);
  if (sequence != lane.next && lane.known) {
    Finding f = at(Check::kSequence, entry, index, "");
    f.sequence = std::min(lane.next, sequence);
    f.text = sequence > lane.next
                 ? text_of(sequence - lane.next) + " entries are missing from this one on"
                 : "it is there again, or out of order (expected " + text_of(lane.next) + ")";
    findings_.add(std::move(f));
  }
  lane.known = true;
  lane.next = std::max(lane.next, sequence + 1);
}

void Ledger::check_clock(const abi::AuditEntry& entry, Lane& lane, std::uint64_t index) {
  // A lane goes back once by what was announced: not with the record, for entries of before the step may still come.
  if (entry.utc_ns + options_.clock_back_ns < lane.last_ns) {
    const std::uint64_t announced = clock_back_ns_ - lane.back_ns;
    const std::uint64_t least = lane.last_ns - std::min(lane.last_ns, announced);
    if (entry.utc_ns + options_.clock_back_ns < least) {
      findings_.add(at(Check::kClock, entry, index,
                       "its time is " + text_of((least - entry.utc_ns) / 1'000'000) +
                           " ms before that of the entry or session before it"));
    }
    lane.back_ns = clock_back_ns_;
    lane.last_ns = entry.utc_ns;
  }
  lane.last_ns = std::max(lane.last_ns, std::uint64_t{entry.utc_ns});
}

void Ledger::check_grant(const abi::AuditEntry& entry, const Session& session,
                         std::uint64_t index) {
  const abi::Decision decision = abi::decision_of(entry);
  const bool moved =
      abi::kind_of(entry) == abi::EntryKind::kTransfer && decision != abi::Decision::kDenied;
  report_.bytes += moved ? abi::bytes_of(entry) : 0;
  report_.denied += decision == abi::Decision::kDenied;
  report_.violations += decision == abi::Decision::kViolation;
  report_.observed += decision == abi::Decision::kObserved;
  if (!session.known) return;
  if (decision == abi::Decision::kObserved && !may_observe(session, entry.utc_ns)) {
    findings_.add(
        at(Check::kGrant, entry, index, "says observed, and its session is not of mode observe"));
  }
  if (decision != abi::Decision::kAllowed) return;
  if (grant_ == nullptr || grant_serial_ != entry.grant) {
    const auto found = grants_.find(std::uint32_t{entry.grant});
    grant_ = found == grants_.end() ? nullptr : &found->second;
    grant_serial_ = entry.grant;
  }
  if (grant_ == nullptr && partial_) return;  // its record may lie in what was removed
  if (const char* why = check_entry_against_grant(entry, session.record, grant_))
    findings_.add(at(Check::kGrant, entry, index, why));
}

// The session's mode when it began, unless the log says that the tenant's was changed since: then that one.
bool Ledger::may_observe(const Session& session, std::uint64_t utc_ns) const {
  const auto found = modes_.find(session.record.tenant);
  if (found == modes_.end() || session.own_enforce) return session.record.observe;
  const TenantMode& mode = found->second;
  if (mode.mode != 2) return session.record.observe || mode.mode == 1;
  // One that began in mode enforce since then has not observed before it.
  const bool before = session.record.observe || session.mode_changes != mode.changes;
  return before && mode.was_observe && utc_ns <= mode.utc_ns + kModeLagNs;
}

void Ledger::take_mode(const ModeRecord& record) {
  TenantMode& mode = modes_[record.tenant];
  if (mode.changes != 0 && mode.mode == record.mode) return;  // said again: nothing began
  const bool observed = mode.mode != 2;  // also if nothing was said before: the first word there is
  mode = {record.mode, record.utc_ns, observed, mode.changes + 1};
}

// The token is signed by the issuer; the record's members are the daemon's word of it.
void Ledger::check_token(const GrantRecord& grant, std::uint64_t index) {
  using Token = VerifyOptions::Token;
  std::string why;
  const Token token = options_.check_token(grant.text, why);
  report_.tokens += token == Token::kGood;
  report_.unknown_keys += token == Token::kUnknownKey;
  if (token == Token::kBad)
    findings_.add(Check::kToken, index, "grant " + text_of(grant.serial) + ": " + why);
}

void Ledger::take_session(const SessionRecord& session, std::uint64_t index) {
  lane_ = nullptr;
  ++report_.sessions;
  if (session.serial <= last_session_) {
    findings_.add(Check::kSession, index,
                  "session " + text_of(session.serial) + " was used before");
  }
  last_session_ = std::max(last_session_, session.serial);
  Session fresh;
  fresh.record = session;
  fresh.back_ns = clock_back_ns_;
  const auto mode = modes_.find(session.tenant);
  fresh.mode_changes = mode == modes_.end() ? 0 : mode->second.changes;
  fresh.own_enforce = !session.observe && mode != modes_.end() && mode->second.mode != 2;
  sessions_[session.serial] = std::move(fresh);
}

void Ledger::end(const SessionEndRecord& end, std::uint64_t index) {
  lane_ = nullptr;
  const auto found = sessions_.find(end.serial);
  if (found == sessions_.end()) {
    if (!partial_)
      findings_.add(Check::kSession, index,
                    "the end of session " + text_of(end.serial) + ", which is not open");
    return;
  }
  const Session& session = found->second;
  const auto differs = [&](std::uint16_t number, std::uint64_t have, std::uint64_t want) {
    Finding f;
    f.check = Check::kSessionEnd;
    f.index = index;
    f.has_lane = true;
    f.session = end.serial;
    f.lane = number;
    f.sequence = std::min(have, want);
    f.text = "the session's end says " + text_of(want) + " entries in this lane, the log has " +
             text_of(have);
    findings_.add(std::move(f));
  };
  for (const auto& [number, want] : end.next) {
    const auto lane = session.lanes.find(number);
    const std::uint64_t have = lane == session.lanes.end() ? 0 : lane->second.next;
    if (have != want && !(partial_ && !session.known)) differs(number, have, want);
  }
  for (const auto& [number, lane] : session.lanes) {
    if (!end.next.contains(number)) differs(number, lane.next, 0);
  }
  sessions_.erase(found);
}

void Ledger::take_grant(const GrantRecord& grant, std::uint64_t index) {
  grant_ = nullptr;
  ++report_.grants;
  if (options_.check_token) check_token(grant, index);
  const auto [known, fresh] = grants_.try_emplace(grant.serial);
  if (fresh) {
    known->second.record = grant;
    return;
  }
  // A daemon that starts again says its living grants again: the same, or a finding.
  const GrantRecord& r = known->second.record;
  if (r.tenant != grant.tenant || r.expires_s != grant.expires_s ||
      r.not_before_s != grant.not_before_s || r.directions != grant.directions ||
      r.devices != grant.devices || r.bytes != grant.bytes) {
    findings_.add(Check::kGrant, index,
                  "grant " + text_of(grant.serial) + " has another meaning than before");
  }
}

void Ledger::boot(const BootRecord& boot, std::uint64_t index) {
  if (boot.recovered != index || boot.signed_size > index) {
    findings_.add(Check::kBoot, index,
                  "a boot record says that " + text_of(boot.recovered) + " entries were there");
  }
  if (!options_.policy.origin.empty() && boot.origin != options_.policy.origin)
    findings_.add(Check::kBoot, index, "a boot record of another log: " + boot.origin);
  if (boot.cut_bytes > 0) {
    findings_.remark("index " + text_of(index) + ": " + text_of(boot.cut_bytes) +
                     " bytes of unfinished writing were cut at a start");
  }
  if (boot_id_ != boot.boot_id) {
    lane_ = nullptr;
    if (!sessions_.empty()) {
      findings_.remark("index " + text_of(index) + ": the machine stopped with " +
                       text_of(sessions_.size()) +
                       " sessions open; what cannot be known: " + boot.unknown);
    }
    sessions_.clear();
  }
  boot_id_ = boot.boot_id;
}

void Ledger::record(const Record& record, std::uint64_t index) {
  ++report_.records;
  if (const auto* session = std::get_if<SessionRecord>(&record)) take_session(*session, index);
  if (const auto* ended = std::get_if<SessionEndRecord>(&record)) end(*ended, index);
  if (const auto* grant = std::get_if<GrantRecord>(&record)) take_grant(*grant, index);
  if (const auto* started = std::get_if<BootRecord>(&record)) boot(*started, index);
  if (const auto* clock = std::get_if<ClockRecord>(&record); clock && clock->step_ns != 0) {
    const auto back =
        static_cast<std::uint64_t>(-std::clamp<std::int64_t>(clock->step_ns, -INT64_MAX, 0));
    clock_back_ns_ += back;
    epoch_back_[0] += back;
  }
  if (const auto* revoked = std::get_if<RevokedRecord>(&record)) {
    const auto grant = grants_.find(revoked->grant);
    if (grant != grants_.end() && grant->second.revoked_ns == 0)
      grant->second.revoked_ns = std::max<std::uint64_t>(revoked->utc_ns, 1);
  }
  if (const auto* mode = std::get_if<ModeRecord>(&record)) take_mode(*mode);
  if (const auto* gap = std::get_if<GapRecord>(&record); gap && gap->session == 0) {
    findings_.add(Check::kGap, index,
                  text_of(gap->count) + " transfers of tenant " + gap->tenant +
                      " went to the driver and no lane took their entries");
  } else if (gap != nullptr) {
    Finding f{Check::kGap,
              index,
              true,
              static_cast<std::uint32_t>(gap->session),
              static_cast<std::uint16_t>(gap->lane),
              gap->from,
              text_of(gap->count) + " entries are known to be lost"};
    findings_.add(std::move(f));
  }
}

void Ledger::epoch_begins(const KeyRecord& key, std::uint64_t index) {
  // What was recorded before a step may be drained after it, and after the epoch that the step ended.
  if (latest_ns_ > key.utc_ns + options_.epoch_skew_ns + epoch_back_[0] + epoch_back_[1]) {
    findings_.add({Check::kEpochTime, latest_index_, true, latest_session_, latest_lane_,
                   latest_sequence_,
                   "its time is after the end of its epoch, which the record at index " +
                       text_of(index) + " ended"});
  }
  latest_ns_ = 0;
  epoch_back_[1] = epoch_back_[0];
  epoch_back_[0] = 0;
  // Grants that ended an hour ago are forgotten: memory is bounded by those that live.
  grant_ = nullptr;
  std::erase_if(grants_, [&](const auto& one) {
    const std::int64_t end = one.second.record.expires_s;
    return end > 0 && static_cast<std::uint64_t>(end) + 3600 < key.utc_ns / kSecondNs;
  });
}

void Ledger::finish() {
  if (report_.unknown_keys > 0) {
    report_.could_not = text_of(report_.unknown_keys) +
                        " grants' tokens are signed by keys that the file lacks; what else was "
                        "asked was checked";
  }
  if (!sessions_.empty())
    findings_.remark(text_of(sessions_.size()) + " sessions are open at the log's end");
}

}  // namespace bulkhead::audit
