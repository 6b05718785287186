#include "daemon/audit_part.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "daemon/audit_sink.h"
#include "daemon/store.h"

namespace bulkhead::daemon {
namespace {

// The highest session number that may have been used, and more.
constexpr const char* kSerialsFile = "audit-sessions";
constexpr std::size_t kMostEarly =
    64;  // of a start: the trust file, and grants that ended meanwhile

AuditRules rules_of(const Config& c) {
  AuditRules r;
  r.full = c.audit_full == "deny"    ? shm::OnFull::kDeny
           : c.audit_full == "count" ? shm::OnFull::kCount
                                     : shm::OnFull::kBlock;
  if (c.audit_deadline_ms != 0) r.deadline_ms = c.audit_deadline_ms;
  if (c.audit_lane_budget.bytes != 0) r.lane_budget = c.audit_lane_budget.bytes;
  return r;
}

std::string text_of(const Config& c) {
  std::string out = c.audit_dir;
  for (const std::uint64_t n :
       {std::uint64_t{c.audit_sync_ms}, c.audit_keep.segment.bytes, c.audit_keep.segment_s,
        std::uint64_t{c.audit_keep.pack}, std::uint64_t{c.audit_keep.retain_days},
        c.audit_keep.retain_size.bytes, std::uint64_t{c.audit_keep.witness_s}})
    out += "\n" + std::to_string(n);
  for (const std::string& w : c.audit_witnesses) out += "\n" + w;
  return out;
}

audit::UpkeepRules upkeep_of(const Config& c) {
  audit::UpkeepRules r;
  r.pack = c.audit_keep.pack;
  r.retain_s = std::uint64_t{c.audit_keep.retain_days} * 86'400;
  r.segment_s = c.audit_keep.segment_s;
  r.retain_bytes = c.audit_keep.retain_size.bytes;
  r.witnesses = c.audit_witnesses;
  r.witness_ms = c.audit_keep.witness_s * 1000;
  r.look_ms = std::min(r.look_ms, r.witness_ms);
  return r;
}

}  // namespace

std::string AuditPart::refusal(const Config& config) {
  if (!has_audit_sink())
    return "this bulkheadd has no audit writer built in; write audit = \"off\"";
  if (!config.audit) return "nothing writes an audit log here; add [audit] and restart bulkheadd";
  return "";
}

// New numbers are on the disk before one is used. Later blocks are taken half a block ahead, without a sync: a crash of
// the machine would have to fall into the seconds after it and 32,768 sessions.
std::uint32_t AuditPart::reserve(std::uint32_t at_least) {
  const std::string kept = read_state_file(places_.state, kSerialsFile, 64);
  const auto used = static_cast<std::uint32_t>(std::strtoul(kept.c_str(), nullptr, 10));
  const std::uint32_t from = std::max({at_least, used + 1, 1u});
  const std::string path = places_.state + "/" + kSerialsFile;
  const std::string text = std::to_string(from + AuditLanes::kSerialsAtOnce - 1) + "\n";
  const UniqueFd fd{
      ::open((path + ".new").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
  const bool written =
      fd.ok() && ::write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
      ((lanes_ != nullptr && lanes_->writer() != nullptr) || ::fdatasync(fd.get()) == 0);
  if (!written || ::rename((path + ".new").c_str(), path.c_str()) != 0) return 0;
  return from;
}

std::string AuditPart::start(const Config& config, const AuditPlaces& places, Poller& poller,
                             const std::function<void(bool, const std::string&)>& tell,
                             AuditWriter::Check check,
                             std::function<std::string(std::uint32_t)> shim,
                             std::function<bool(const std::string&)> enforced) {
  started_ = true;
  const std::vector<std::string> early = std::move(early_);
  if (!refusal(config).empty()) return "";
  places_ = places;
  in_force_ = text_of(config);
  AuditSinkOptions options;
  options.directory = config.audit_dir.empty() ? places.state + "/audit" : config.audit_dir;
  if (config.audit_sync_ms != 0) options.sync_ms = config.audit_sync_ms;
  options.segment_bytes = config.audit_keep.segment.bytes;
  options.segment_s = config.audit_keep.segment_s;
  options.upkeep = upkeep_of(config);
  const auto news = std::make_shared<AuditNews>();
  options.told = [news](bool good, const std::string& text) { news->put(good, text); };
  auto sink = open_audit_sink(options);
  if (!sink.ok()) return sink.problem;
  directory_ = options.directory;
  auto keep = open_keep(places.dir_fd, places.dir);
  if (!keep.ok()) return keep.problem;
  AuditLanes::Outside outside;
  outside.poller = &poller;
  outside.reserve_serials = [this](std::uint32_t at_least) { return reserve(at_least); };
  outside.alarm = [tell](const std::string& text) { tell(false, text); };
  outside.relief = [tell](const std::string& text) { tell(true, text); };
  outside.news = news;
  outside.check = std::move(check);
  outside.shim = std::move(shim);
  outside.enforced = std::move(enforced);
  lanes_ = std::make_unique<AuditLanes>(std::move(outside), rules_of(config));
  if (std::string problem = lanes_->open(std::move(*keep), std::move(sink->sink), sink->found);
      !problem.empty())
    return problem;
  for (const std::string& json : early) (void)record(json);
  return "";
}

std::uint64_t AuditPart::record(std::string json) {
  if (lanes_ != nullptr && lanes_->writer() != nullptr)
    return lanes_->writer()->record(std::move(json));
  if (!started_ && early_.size() < kMostEarly) early_.push_back(std::move(json));
  return 0;
}

std::uint64_t AuditPart::recorded() const {
  return lanes_ != nullptr ? lanes_->figures().own_records : 0;
}

void AuditPart::set_rules(const Config& config) {
  if (lanes_ != nullptr) lanes_->set_rules(rules_of(config));
}

const char* AuditPart::not_in_force(const Config& config) const {
  if (lanes_ == nullptr && !config.audit) return nullptr;
  if (!has_audit_sink()) return "[audit] dir (and a bulkheadd with an audit writer built in)";
  return lanes_ == nullptr || text_of(config) != in_force_
             ? "[audit] but for full, deadline_ms and lane_budget"
             : nullptr;
}

void AuditPart::fill(wire::DaemonView& d) const {
  if (lanes_ == nullptr) return;
  const AuditFigures f = lanes_->figures();
  const AuditLanes::Waits w = lanes_->waits();
  d.audit_entries = f.entries;
  d.audit_violations = f.violations;
  d.audit_malformed = f.malformed;
  d.audit_high_water = f.high_water;
  d.audit_sink_stalls = f.sink_stalls;
  d.audit_lanes = lanes_->lanes("");
  d.audit_sessions = lanes_->sessions();
  d.audit_waits = w.waited;
  d.audit_refused = w.refused;
  d.audit_unrecorded = w.unrecorded;
  const audit::SinkFigures s = lanes_->sink_figures();
  wire::AuditView& v = d.audit;
  v.flags =
      wire::kAuditOn | (f.full ? wire::kAuditFull : 0u) | (f.failed ? wire::kAuditFailed : 0u);
  v.witnesses = s.witnesses;
  v.witnesses_away = s.witnesses_away;
  v.gaps = f.gaps;
  v.size = s.size;
  v.durable = s.durable;
  v.signed_size = s.signed_size;
  v.cosigned = s.cosigned;
  v.segments = s.segments;
  v.packed = s.packed;
  v.removed = s.removed;
  v.clock_steps = s.clock_steps;
  v.last_step_ns = s.last_step_ns;
}

void AuditPart::stop() {
  if (lanes_ != nullptr) lanes_->stop();
}

}  // namespace bulkhead::daemon
