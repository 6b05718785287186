#include "daemon/rollout.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "base/fd.h"
#include "wire/parse.h"

namespace bulkhead::daemon {
namespace {

using policy::RolloutState;
using wire::EventKind;
using wire::Severity;

constexpr int kLook_ms = 1000;
constexpr std::uint64_t kAway_ns = 5'000'000'000;    // without counts: then they are lost
constexpr std::int64_t kOldest_ns = 15'000'000'000;  // of the service's figure

std::string mode_text(std::uint32_t mode) { return policy::audit_mode_name(mode); }

Severity severity_of(EventKind kind) {
  return kind == EventKind::kRolloutFellBack ? Severity::kWarning : Severity::kNotice;
}

Answer refused(Errc code, const std::string& tenant, std::string text) {
  Answer a;
  a.result = code;
  a.tenant = tenant;
  a.text = std::move(text);
  return a;
}

std::uint64_t since(std::uint64_t now, std::uint64_t base) { return now > base ? now - base : 0; }

}  // namespace

bool read_service_figure(const std::string& file, std::int64_t now_unix_ns, std::uint64_t& ns) {
  const UniqueFd fd{::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)};
  struct stat st {};
  if (!fd.ok() || ::fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode)) return false;
  // One of the future is not of now, and the product must not overflow.
  if (st.st_mtim.tv_sec < 0 || st.st_mtim.tv_sec > now_unix_ns / 1'000'000'000 + 2) return false;
  const std::int64_t at = st.st_mtim.tv_sec * 1'000'000'000 + st.st_mtim.tv_nsec;
  char text[64] = {};
  const ssize_t n = ::read(fd.get(), text, sizeof text - 1);
  if (n <= 0 || now_unix_ns - at > kOldest_ns) return false;
  char* end = nullptr;
  const double ms = std::strtod(text, &end);
  if (end == text || (*end != '\0' && *end != '\n') || !std::isfinite(ms) || ms < 0 || ms > 1e9)
    return false;
  ns = static_cast<std::uint64_t>(std::llround(ms * 1e6));
  return true;
}

Rollouts::Rollouts(RolloutsOutside outside) : outside_(std::move(outside)) {}

void Rollouts::start(const std::string& here, const std::string& state, const Now& now) {
  if (!from_json(here, kept_)) (void)from_json(state, kept_);
  begun_ = true;
  if (!outside_.refusal.empty()) return;
  for (auto& [tenant, r] : kept_.rollouts) {
    r.watched_from_ns = now.mono_ns;  // time in which nobody looked is not watched time
    if (r.moving) finish_move(tenant, r, now);
  }
  reconcile(now);
  keep();
}

// A tenant whose mode the log does not know yet: of the configuration, or of a region that was made anew.
void Rollouts::reconcile(const Now& now) {
  const auto modes = outside_.modes();
  for (const auto& [tenant, mode] : modes) before_mode(tenant, mode, nullptr, now);
  changed_ |=
      std::erase_if(kept_.told, [&](const auto& t) { return !modes.contains(t.first); }) != 0;
}

void Rollouts::before_mode(const std::string& tenant, std::uint32_t mode, const Peer* by,
                           const Now& now) {
  if (!begun_ || !outside_.refusal.empty()) return;
  const auto at = kept_.told.find(tenant);
  if (at == kept_.told.end() && mode == 0) return;
  AuditCounts counts;
  if (!outside_.counts(tenant, counts)) {
    // A region that cannot be read keeps no change out of the log: then without what it counted.
    if (at == kept_.told.end() || at->second.mode == mode) return;
    counts = AuditCounts{};
    counts.region = at->second.region;
  }
  const bool known = at != kept_.told.end() && at->second.region == counts.region;
  if (known && at->second.mode == mode) return;
  ModeChange change;
  change.tenant = tenant;
  change.was = at != kept_.told.end() ? at->second.mode : 0;
  change.mode = mode;
  change.by = !moving_.empty() ? "rollout" : by != nullptr ? "set" : "configuration";
  change.why = !moving_.empty()                  ? moving_
               : known || at == kept_.told.end() ? ""
                                                 : "its region was made anew";
  if (by != nullptr) change.by_uid = by->uid, change.by_pid = by->pid;
  change.lanes = outside_.lanes(tenant);
  (void)outside_.record(mode_record(change, counts, now.unix_ns));
  AuditTold& told = kept_.told[tenant];
  told.mode = mode;
  if (!known) told.no_lane_calls = told.no_lane_bytes = 0;
  told.region = counts.region;
  changed_ = true;
  EventFields fields;
  fields.severity = mode < change.was ? Severity::kWarning : Severity::kNotice;
  fields.tenant = tenant;
  fields.pid = change.by_pid;
  fields.uid = change.by_uid;
  outside_.post(EventKind::kAuditMode,
                "audit of " + tenant + ": " + mode_text(change.was) + " -> " + mode_text(mode) +
                    " (" + change.by + ")",
                fields);
  const auto running = kept_.rollouts.find(tenant);
  if (by != nullptr && moving_.empty() && running != kept_.rollouts.end() &&
      running->second.state == RolloutState::kRunning) {
    stop_one(tenant, running->second, "mode " + mode_text(mode) + " was set by hand", now);
  }
}

void Rollouts::tell(const std::string& tenant, const char* step, const Rollout& r, EventKind kind,
                    const Now& now) {
  (void)outside_.record(rollout_record(tenant, step, r, now.unix_ns));
  EventFields fields;
  fields.severity = severity_of(kind);
  fields.tenant = tenant;
  fields.uid = r.by_uid;
  outside_.post(kind, "rollout " + mode_text(r.mode) + ": " + r.why, fields);
}

void Rollouts::keep() {
  if (!std::exchange(changed_, false)) return;
  const std::string json = to_json(kept_);
  outside_.keep_here(json);
  outside_.keep_state(json);
}

void Rollouts::take_base(const std::string& tenant, Rollout& r, const Now& now) {
  AuditCounts counts;
  r.base = RolloutBase{};
  r.seen = policy::RolloutSeen{};
  r.watched_from_ns = now.mono_ns;
  if (!outside_.counts(tenant, counts)) return;  // no region: the next look says that
  const auto sum = counts.totals.sum();
  r.base.region = counts.region;
  r.base.missed_calls = sum.missed_calls;
  r.base.missed_bytes = sum.missed_bytes;
  r.base.refusals = sum.refused + sum.observed;
  r.base.broken = outside_.broken();
  std::copy(std::begin(counts.totals.held), std::end(counts.totals.held), r.base.held);
}

Answer Rollouts::request(const Peer& peer, const wire::RolloutRequest& q, const Now& now) {
  const std::string tenant = q.name;
  if (!outside_.refusal.empty()) return refused(Errc::kInvalid, tenant, outside_.refusal);
  Answer a = q.action == wire::RolloutDo::kStop ? stop(peer, tenant, now) : begin(peer, q, now);
  keep();
  return a;
}

Answer Rollouts::begin(const Peer& peer, const wire::RolloutRequest& q, const Now& now) {
  const std::string tenant = q.name;
  const auto modes = outside_.modes();
  const auto mode = modes.find(tenant);
  if (mode == modes.end())
    return refused(Errc::kNotFound, tenant,
                   "there is no tenant " + tenant + ": see 'bulkhead status'");
  const auto target = static_cast<std::uint32_t>(q.target);
  if (const auto at = kept_.rollouts.find(tenant);
      at != kept_.rollouts.end() && at->second.state == RolloutState::kRunning) {
    return refused(
        Errc::kExists, tenant,
        "a rollout of " + tenant + " runs: stop it with 'bulkhead rollout " + tenant + " --stop'");
  }
  if (mode->second >= target) {
    return refused(Errc::kInvalid, tenant,
                   "tenant " + tenant + " is in mode " + mode_text(mode->second) +
                       " already; lower it with 'bulkhead set " + tenant + " --audit'");
  }
  Rollout r;
  r.rules.target = target;
  r.rules.watch_ns = q.watch_ms * 1'000'000;
  r.rules.on_gap = (q.flags & wire::kAbortOnGap) != 0;
  r.rules.p99_ns = q.p99_ns;
  r.rules.refusals = q.refusals;
  r.rules.service_p99_ns = q.service_p99_ns;
  r.service_file = q.service_file;
  r.from = r.mode = mode->second;
  r.began_unix_ns = now.unix_ns;
  r.by_uid = peer.uid;
  r.by_pid = peer.pid;
  r.why = "towards " + mode_text(target) + ", each mode watched for " +
          policy::span_text(r.rules.watch_ns);
  take_base(tenant, r, now);
  Rollout& kept = kept_.rollouts[tenant] = std::move(r);
  changed_ = true;
  tell(tenant, "began", kept, EventKind::kRolloutBegan, now);
  look(tenant, kept, mode->second, now);
  Answer a;
  a.tenant = tenant;
  a.text = kept.state == RolloutState::kRunning ? "" : kept.why;
  return a;
}

void Rollouts::stop_one(const std::string& tenant, Rollout& r, const std::string& why,
                        const Now& now) {
  r.state = RolloutState::kStopped;
  r.why = why;
  changed_ = true;
  tell(tenant, "stopped", r, EventKind::kRolloutStopped, now);
}

Answer Rollouts::stop(const Peer& peer, const std::string& tenant, const Now& now) {
  const auto at = kept_.rollouts.find(tenant);
  if (at == kept_.rollouts.end() || at->second.state != RolloutState::kRunning)
    return refused(Errc::kNotFound, tenant, "no rollout of " + tenant + " runs");
  stop_one(tenant, at->second, "stopped by uid " + std::to_string(peer.uid) + "; the mode stays",
           now);
  Answer a;
  a.tenant = tenant;
  return a;
}

// What is kept says where it is going before it goes there.
void Rollouts::move(const std::string& tenant, Rollout& r, std::uint32_t to, const Now& now) {
  r.mode = to;
  r.moving = true;
  changed_ = true;
  keep();
  finish_move(tenant, r, now);
}

void Rollouts::finish_move(const std::string& tenant, Rollout& r, const Now& now) {
  moving_ = r.why;
  const std::string problem = outside_.set_mode(tenant, r.mode);
  moving_.clear();
  r.moving = false;
  take_base(tenant, r, now);
  changed_ = true;
  if (!problem.empty())
    stop_one(tenant, r, "mode " + mode_text(r.mode) + " cannot be set: " + problem, now);
  keep();
}

void Rollouts::step(const std::string& tenant, Rollout& r, const policy::RolloutAnswer& answer,
                    const Now& now) {
  using Do = policy::RolloutAnswer;
  if (answer.what == Do::kWait) return;
  r.why = answer.why;
  changed_ = true;
  switch (answer.what) {
    case Do::kDone:
      r.state = RolloutState::kDone;
      return tell(tenant, "done", r, EventKind::kRolloutDone, now);
    case Do::kStop:
      return stop_one(tenant, r, answer.why, now);
    case Do::kNext: {
      Rollout next = r;
      next.mode = r.mode + 1;
      tell(tenant, "moved", next, EventKind::kRolloutMoved, now);
      return move(tenant, r, r.mode + 1, now);
    }
    case Do::kBack: {
      r.state = RolloutState::kFellBack;
      const std::uint32_t to = policy::rollout_back(r.mode, r.from);
      Rollout back = r;
      back.mode = to;
      tell(tenant, "fell-back", back, EventKind::kRolloutFellBack, now);
      return move(tenant, r, to, now);
    }
    case Do::kWait:
      return;
  }
}

void Rollouts::look(const std::string& tenant, Rollout& r, std::uint32_t mode, const Now& now) {
  AuditCounts counts;
  if (!outside_.counts(tenant, counts)) {  // its region is being made anew, or is faulty
    if (r.away_from_ns == 0) r.away_from_ns = now.mono_ns;
    if (since(now.mono_ns, r.away_from_ns) < kAway_ns) return;
    r.seen.mode = mode;
    r.seen.counts_lost = true;
    return step(tenant, r, policy::judge_rollout(r.rules, r.mode, r.seen), now);
  }
  r.away_from_ns = 0;
  const auto sum = counts.totals.sum();
  policy::RolloutSeen& s = r.seen;
  s.mode = mode;
  s.watched_ns =
      since(now.mono_ns, r.watched_from_ns);  // the turn's clock is older than a request's
  s.counts_lost = counts.region != r.base.region || sum.missed_calls < r.base.missed_calls ||
                  sum.refused + sum.observed < r.base.refusals;
  s.missed_calls = since(sum.missed_calls, r.base.missed_calls);
  s.missed_bytes = since(sum.missed_bytes, r.base.missed_bytes);
  s.refusals = since(sum.refused + sum.observed, r.base.refusals);
  s.broken_lanes = since(outside_.broken(), r.base.broken);
  unsigned bucket = 0;
  s.has_p99 = !s.counts_lost && shm::p99_bucket(counts.totals.held, r.base.held, bucket);
  s.p99_from_ns = s.has_p99 ? shm::bucket_from_ns(bucket) : 0;
  s.p99_to_ns = s.has_p99 ? shm::bucket_from_ns(bucket + 1) : 0;
  if (r.rules.service_p99_ns != 0)
    s.service_known = read_service_figure(r.service_file, now.unix_ns, s.service_ns);
  step(tenant, r, policy::judge_rollout(r.rules, r.mode, s), now);
}

void Rollouts::tell_no_lane(const std::string& tenant, AuditTold& told, const Now& now) {
  Untold& untold = untold_[tenant];
  if (untold.ticket != 0 && outside_.recorded() >= untold.ticket) {
    told.no_lane_calls += untold.calls;
    told.no_lane_bytes += untold.bytes;
    untold = Untold{};
    changed_ = true;
  }
  AuditCounts counts;
  if (untold.ticket != 0 || !outside_.counts(tenant, counts) || counts.region != told.region)
    return;
  const std::uint64_t calls = since(counts.totals.no_lane_calls, told.no_lane_calls);
  if (calls == 0) return;
  untold.calls = calls;
  untold.bytes = since(counts.totals.no_lane_bytes, told.no_lane_bytes);
  untold.ticket = outside_.record(no_lane_record(tenant, calls, untold.bytes, now.unix_ns));
  EventFields fields;
  fields.severity = Severity::kWarning;
  fields.tenant = tenant;
  fields.bytes = untold.bytes;
  outside_.post(
      EventKind::kAuditGap,
      std::to_string(calls) + " transfers went to the driver and no lane took their entries",
      fields);
}

int Rollouts::tick(const Now& now) {
  if (!begun_ || !outside_.refusal.empty()) return -1;
  reconcile(now);
  const auto modes = outside_.modes();
  for (auto& [tenant, told] : kept_.told) tell_no_lane(tenant, told, now);
  int due_ms = kLook_ms;
  for (auto& [tenant, r] : kept_.rollouts) {
    if (r.state != RolloutState::kRunning) continue;
    const auto mode = modes.find(tenant);
    if (mode == modes.end()) {
      stop_one(tenant, r, "the tenant is gone", now);
    } else {
      look(tenant, r, mode->second, now);
    }
    const std::uint64_t left = since(r.rules.watch_ns, since(now.mono_ns, r.watched_from_ns));
    due_ms = static_cast<int>(
        std::min<std::uint64_t>(static_cast<std::uint64_t>(due_ms), left / 1'000'000 + 1));
  }
  keep();
  return due_ms;
}

void Rollouts::show(const std::string& tenant, wire::RolloutReply& out) const {
  wire::put_text(out.name, tenant.c_str());
  const auto modes = outside_.modes();
  if (const auto mode = modes.find(tenant); mode != modes.end())
    out.mode = static_cast<wire::AuditMode>(mode->second);
  const auto at = kept_.rollouts.find(tenant);
  if (at == kept_.rollouts.end()) return;
  const Rollout& r = at->second;
  out.known = 1;
  out.state = static_cast<std::uint32_t>(r.state);
  out.from = static_cast<wire::AuditMode>(r.from);
  out.target = static_cast<wire::AuditMode>(r.rules.target);
  out.flags = (r.rules.on_gap ? wire::kAbortOnGap : 0u) | (r.seen.has_p99 ? 2u : 0u) |
              (r.seen.service_known ? 4u : 0u);
  out.began_unix_ns = r.began_unix_ns;
  out.watched_ms = r.seen.watched_ns / 1'000'000;
  out.watch_ms = r.rules.watch_ns / 1'000'000;
  out.missed_calls = r.seen.missed_calls;
  out.missed_bytes = r.seen.missed_bytes;
  out.refusals = r.seen.refusals;
  out.p99_from_ns = r.seen.p99_from_ns;
  out.p99_to_ns = r.seen.p99_to_ns;
  out.service_ns = r.seen.service_ns;
  wire::put_text(out.why, r.why.c_str());
}

}  // namespace bulkhead::daemon
