// What each part asks of the others.
#include <sys/utsname.h>
#include <unistd.h>

#include <cstring>

#include "base/clock.h"
#include "daemon/node_whole.h"
#include "daemon/pidfd.h"

namespace bulkhead::daemon {

using wire::EventKind;
using wire::Severity;

// At a start, for a process whose session's record the daemon before us had not written.
constexpr int kLook_ms = 1000;
constexpr std::uint64_t kLooks_ns = 5'000'000'000;  // for all of them

void WholeNode::wire_regions() {
  TenantRegions::Outside outside;
  outside.dir = &dir_;
  outside.poller = &loop_.poller();
  outside.clock = [this] { return loop_.read_clock(); };
  outside.turn_began = [this] { return loop_.now(); };
  outside.total_bytes_of = [this](const std::uint8_t* uuid) -> std::uint64_t {
    for (const Capacity& c : ledger_->capacities()) {
      if (std::memcmp(c.uuid, uuid, sizeof c.uuid) == 0) return c.total_bytes;
    }
    return 0;
  };
  regions_ = std::make_unique<TenantRegions>(std::move(outside));
  regions_->on_news = [this](const RegionNews& news) {
    if (news.kind == EventKind::kTenantAdopted) return;  // the ledger tells, with its reasons
    note_end(news);
    EventFields fields;
    fields.severity = severity_of(news.kind);
    fields.tenant = news.tenant;
    fields.pid = news.pid;
    fields.uid = news.uid;
    fields.bytes = news.bytes;
    journal_->post(loop_.read_clock(), news.kind, news.text, fields);
  };
  LedgerOptions options;
  options.daemon_uid = ::geteuid();
  options.post = [this](EventKind kind, const std::string& text, const EventFields& fields) {
    journal_->post(loop_.read_clock(), kind, text, fields);
  };
  options.store = [this](const std::string& json) { keep_tenants(json); };
  options.before_force = [this](const wire::TenantRecord& r) {
    if (held_by_mps(r)) mps_->evict_all(mps_key(r), pids_of_tenant(r.name));
  };
  options.no_audit = AuditPart::refusal(config_);
  options.before_audit = [this](const std::string& name, wire::AuditMode mode, const Peer* by) {
    if (rollouts_)
      rollouts_->before_mode(name, static_cast<std::uint32_t>(mode), by, loop_.read_clock());
  };
  options.has_class = [this](const std::string& tenant, const std::string& word) {
    return !grants_ || !grants_->trusts() || grants_->has_class(tenant, word);
  };
  ledger_ = std::make_unique<Ledger>(*regions_, std::move(options));
  regions_->on_found = [this](const wire::TenantRecord& found) {
    return ledger_->adopt(found, loop_.read_clock());
  };
  regions_->on_read = [this] {
    if (sentinel_) sentinel_->ask();
  };
  regions_->on_gone = [this](const std::string& name) { ledger_->gone(name, loop_.read_clock()); };
}

// Verification once, here; the rest is in the tables.
void WholeNode::wire_grants() {
  GrantsOutside outside;
  outside.post = [this](EventKind kind, const std::string& text, const EventFields& fields) {
    journal_->post(loop_.read_clock(), kind, text, fields);
  };
  outside.record = [this](const std::string& json) { (void)audit_.record(json); };
  outside.keep_here = [this](const std::string& json) { keep_here(kGrantsFile, json); };
  outside.keep_state = [this](const std::string& json) { store_->replace(kGrantsFile, json); };
  grants_ = std::make_unique<Grants>(*ledger_, std::move(outside));
}

// Before the socket: nobody is started with a library that was not checked.
std::string WholeNode::take_shim() {
  shim_ = ShimCopy{};
  if (!config_.trust_shim_root.empty()) {
    const std::string manifest = config_.trust_shim.empty() ? kShimManifest : config_.trust_shim;
    auto made = prepare_shim(config_.trust_shim_root, manifest, state_);
    if (!made.ok()) {
      journal_->post(loop_.read_clock(), EventKind::kShimRefused, made.problem, {Severity::kAlarm});
      return made.problem;
    }
    shim_ = std::move(*made);
  }
  if (!shim_.path.empty()) {
    // The threads have a copy of their own: they may outlive this.
    const Status bad = looks_.open(
        loop_.poller(), [shim = shim_](std::uint32_t pid) { return has_shim(pid, shim); });
    if (!bad.ok()) return bad.text();
  }
  return publish_shim(dir_.fd.get(), shim_.path);
}

// What a session's record says of the library; unset: nothing is signed here.
std::function<std::string(std::uint32_t)> WholeNode::shim_of() {
  if (shim_.path.empty()) return nullptr;
  return [this, end_ns = std::uint64_t{0}](std::uint32_t pid) mutable -> std::string {
    if (looks_.answering()) return looks_.has(pid) ? shim_.sha256 : kOtherShim;
    const std::uint64_t now = monotonic_ns();
    if (end_ns == 0) end_ns = now + kLooks_ns;
    const std::optional<bool> has = looks_.wait(pid, now < end_ns ? kLook_ms : 0);
    return !has ? kUnknownShim : *has ? shim_.sha256 : std::string{kOtherShim};
  };
}

// This node's name in `aud`: the configuration's, else the host's.
Trust WholeNode::trust_of(const Config& config) const {
  Trust trust{config.trust_jwks, config.trust_audience, config.trust_issuer};
  utsname host{};
  if (trust.audience.empty() && ::uname(&host) == 0) trust.audience = host.nodename;
  return trust;
}

void WholeNode::wire_server() {
  ServerOptions options;
  options.daemon_uid = ::geteuid();
  options.authoritative = dir_.authoritative;
  options.version = std::string{"bulkheadd "} + kVersion;
  options.clock = [this] { return loop_.read_clock(); };
  ServerProviders p;
  p.tenants = picture_.providers.tenants = [this] { return tenant_views(); };
  p.devices = picture_.providers.devices = [this] { return device_views(); };
  p.strays = picture_.providers.strays = [this] { return watch_->strays(); };
  p.events = picture_.providers.events = [this](std::uint64_t after, std::size_t most,
                                                std::uint32_t& lost) {
    return events_after(after, most, lost);
  };
  p.next_event_id = picture_.providers.next_event_id = [this] { return journal_->next_id(); };
  p.usage = [this](std::int64_t since) { return usage_->rows(since); };
  p.reload = [this](ConfigReader::Done done) { begin_reload(std::move(done)); };
  p.condition = [this] {
    const std::string waits = condition(), siem = siem_.text();
    return waits.empty() || siem.empty() ? waits + siem : waits + "; " + siem;
  };
  if (AuditLanes* lanes = audit_.lanes()) {
    if (looks_.is_open()) {
      p.lane_known = [this](const Peer& peer, const wire::LaneRequest& q,
                            std::function<void()> again) {
        if ((q.flags & wire::kLaneFirst) == 0 || (q.flags & wire::kLaneProbe) != 0) return true;
        return looks_.ask({peer.pid, peer.start_ticks, q.name}, std::move(again));
      };
    }
    p.lane = [lanes](const Peer& peer, const wire::LaneRequest& request, UniqueFd pidfd) {
      return lanes->request(peer, request, std::move(pidfd));
    };
  }
  p.audit_state = [this](wire::AuditReply& r) {
    wire::DaemonView d{};
    audit_.fill(d);
    grants_->fill(d.audit);
    r.view = d.audit;
    r.entries = d.audit_entries;
    r.violations = d.audit_violations;
    r.waited = d.audit_waits;
    r.refused = d.audit_refused;
    r.unrecorded = d.audit_unrecorded;
    r.sessions = static_cast<std::uint32_t>(d.audit_sessions);
    r.lanes = static_cast<std::uint32_t>(d.audit_lanes);
  };
  p.grant = [this](const Peer& peer, const std::string& tenant, std::string_view token) {
    return grants_->present(peer, tenant, token, loop_.read_clock());
  };
  p.revoke = [this](const Peer& peer, wire::RevokeWhat what, const std::string& which) {
    return grants_->revoke(peer, what, which, loop_.read_clock());
  };
  p.grant_table = [this](const Peer& peer, const std::string& tenant, UniqueFd& out) {
    return grants_->table(peer, tenant, out);
  };
  p.rollout = [this](const Peer& peer, const wire::RolloutRequest& request) {
    return rollouts_->request(peer, request, loop_.read_clock());
  };
  p.show_rollout = [this](const std::string& tenant, wire::RolloutReply& out) {
    rollouts_->show(tenant, out);
  };
  reader_.apply = [this](Outcome<Config> read) { return reload(std::move(read)); };
  picture_.providers.daemon = [this](wire::DaemonView& d) { fill_daemon(d); };
  server_ = std::make_unique<Server>(loop_.poller(), *ledger_, std::move(options), std::move(p));
}

}  // namespace bulkhead::daemon
