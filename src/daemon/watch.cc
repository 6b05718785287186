#include "daemon/watch.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "wire/lines.h"

namespace bulkhead::daemon {
namespace {

constexpr std::uint64_t kSecond_ns = 1'000'000'000;

std::string mib(std::uint64_t bytes) { return fmt::format("{} MiB", bytes >> 20); }

std::string who(const policy::SeenProcess& p) {
  return fmt::format("{} (pid {}, uid {})", p.command, p.pid, p.uid);
}

DeviceId device_id(const std::uint8_t* uuid) {
  DeviceId id;
  std::memcpy(id.data(), uuid, id.size());
  return id;
}

std::vector<policy::BookedProcess> booked(const std::vector<Regions::Member>& members) {
  std::vector<policy::BookedProcess> out;
  out.reserve(members.size());
  for (const Regions::Member& m : members) {
    policy::BookedProcess b{m.pid, m.start_ticks, m.tenant, {}};
    for (std::size_t d = 0; d < m.uuids.size() && d < m.booked_bytes.size(); ++d) {
      const std::uint64_t unseen = d < m.unseen_bytes.size() ? m.unseen_bytes[d] : 0;
      policy::DeviceUuid uuid{};
      std::copy_n(m.uuids[d].begin(), std::min(m.uuids[d].size(), uuid.size()), uuid.begin());
      b.shown_bytes.emplace_back(uuid, m.booked_bytes[d] > unseen ? m.booked_bytes[d] - unseen : 0);
    }
    out.push_back(std::move(b));
  }
  return out;
}

std::uint64_t moved_bytes(const wire::DeviceView& device) {
  std::uint64_t sum = 0;
  for (const std::uint64_t bytes : device.moved_bytes)
    sum += std::min(bytes, ~std::uint64_t{1} - sum);
  return sum;
}

}  // namespace

Watch::Watch(Regions& regions, Journal& journal, Usage& usage, Store* store,
             policy::BypassRules rules, KillWorld& kills)
    : regions_(regions),
      journal_(journal),
      usage_(usage),
      store_(store),
      rules_(rules),
      kills_(kills),
      bypass_(std::move(rules)),
      stored_id_(journal.next_id() - 1) {}

int Watch::tick(const Now& now) {
  watch_clock(now);
  if (next_round) {
    if (auto round = next_round()) take(now, std::move(*round));
  }
  if (sampled_ns_ == 0 || now.mono_ns - sampled_ns_ >= kSecond_ns) sample_usage(now);
  watch_store(now);
  journal_.settle(now);
  store_events();
  const std::uint64_t left = kSecond_ns - std::min(now.mono_ns - sampled_ns_, kSecond_ns);
  return static_cast<int>(left / 1'000'000) + 1;
}

void Watch::take(const Now& now, Round round) {
  round_ = std::move(round);
  ++counters_.rounds;
  if (!round_.nvml || !round_.seen.uses_known) ++counters_.failures;
  const auto members = regions_.members();
  const auto books = booked(members);
  // Whose each pid is; a pid of another namespace is found by its start, as the rules do it.
  std::map<std::uint32_t, std::string> owners;
  for (const policy::SeenProcess& p : round_.seen.processes) {
    for (const auto& b : books) {
      if (b.start_ticks == p.start_ticks && (b.pid == p.pid || (b.pid == 0 && p.nested)))
        owners[p.pid] = b.tenant;
    }
  }
  tell_samples();
  note_gpu_time(owners);
  note_overhead(owners);
  if (mps_servers) {
    if (auto servers = mps_servers(); servers != rules_.mps_servers) {
      rules_.mps_servers = std::move(servers);
      bypass_.set_rules(rules_);
    }
  }
  policy::BypassResult result = bypass_.look(round_.seen, books);
  for (const auto& [change, stray] : result.changes) post_change(now, change, stray);
  for (const policy::SeenProcess& p : result.kill) kill(now, p);
  strays_ = std::move(result.strays);
}

void Watch::tell_samples() {
  if (!round_.seen.uses_known) return;
  std::map<std::uint32_t, std::uint64_t> starts;
  for (const policy::SeenProcess& p : round_.seen.processes) starts[p.pid] = p.start_ticks;
  Regions::Sample sample;
  sample.began_ns = round_.mono_ns;
  for (const policy::SeenUse& use : round_.seen.uses) {
    const auto start = starts.find(use.pid);
    if (start == starts.end() || use.bytes == 0) continue;  // gone; or NVML does not know
    sample.uses.push_back({use.pid, start->second, use.device, use.bytes});
  }
  regions_.tell_samples(sample);
}

void Watch::note_gpu_time(const std::map<std::uint32_t, std::string>& owners) {
  share_x100_.clear();
  for (const RoundDevice& d : round_.devices) gpu_time_known_[d.uuid] |= d.gpu_time_known;
  for (const RoundGpuTime& t : round_.gpu_times) {
    const auto owner = owners.find(t.pid);
    if (owner == owners.end()) continue;
    const TenantDevice key{owner->second, t.device};
    gpu_use_[key].ms += t.ms;
    share_x100_[key] = std::min(share_x100_[key] + t.percent * 100, 10'000u);
  }
}

void Watch::note_overhead(const std::map<std::uint32_t, std::string>& owners) {
  if (!round_.seen.uses_known) return;
  overhead_.clear();
  for (const policy::SeenUse& use : round_.seen.uses) {
    if (!owners.contains(use.pid)) overhead_[use.device] += use.bytes;
  }
}

void Watch::post_change(const Now& now, policy::StrayChange change, const policy::Stray& stray) {
  const policy::SeenProcess& p = stray.process;
  const bool found = change == policy::StrayChange::kFound;
  EventFields fields;
  fields.tenant = stray.tenant;
  if (fields.tenant.empty() && tenant_of) fields.tenant = tenant_of(p);
  fields.pid = p.pid;
  fields.uid = p.uid;
  fields.bytes = stray.bytes;
  const bool node = stray.kind == policy::StrayKind::kHoldsNode;
  if (!node) fields.uuid = stray.device.data();
  fields.severity = !found ? wire::Severity::kInfo
                    : node ? wire::Severity::kNotice
                           : wire::Severity::kWarning;
  if (found) ++counters_.found;
  std::string text;
  if (stray.kind == policy::StrayKind::kDrift) {
    text = found ? fmt::format("{} holds {} more than its tenant's books", who(p), mib(stray.bytes))
                 : fmt::format("{}: the books agree with NVML again, or it ended", who(p));
    journal_.post(now, wire::EventKind::kDrift, text, fields);
    return;
  }
  if (!found) {
    text = fmt::format("{} is gone, or has joined a tenant", who(p));
  } else if (node) {
    text = fmt::format("{} holds a GPU's device node open and is of no tenant: {}", who(p), p.exe);
  } else {
    text = fmt::format("{} holds {} and is of no tenant{}: {}", who(p), mib(stray.bytes),
                       p.at_secure ? " (setuid: the library does nothing there)" : "", p.exe);
  }
  journal_.post(now, found ? wire::EventKind::kBypassFound : wire::EventKind::kBypassGone, text,
                fields);
}

void Watch::kill(const Now& now, const policy::SeenProcess& p) {
  if (const auto at = tried_kill_.find(p.pid);
      at != tried_kill_.end() && at->second == p.start_ticks) {
    return;
  }
  if (const std::string faulty = regions_.may_be_of_faulty(p.uid, p.start_ticks); !faulty.empty()) {
    spare(now, p, faulty);
    return;
  }
  if (may_kill && !may_kill(p)) return;  // the next round asks again
  const KillOutcome outcome = checked_kill(kills_, p, rules_);
  if (outcome == KillOutcome::kGone || outcome == KillOutcome::kAnother) return;
  tried_kill_[p.pid] = p.start_ticks;  // said once, and not tried again: it dies or it cannot be
  if (tried_kill_.size() > 1024) tried_kill_.erase(tried_kill_.begin());
  EventFields fields;
  fields.severity = wire::Severity::kAlarm;
  fields.pid = p.pid;
  fields.uid = p.uid;
  const bool killed = outcome == KillOutcome::kKilled;
  if (killed) ++counters_.killed;
  journal_.post(now, wire::EventKind::kBypassKilled,
                killed ? fmt::format("{} was killed: on a GPU of no tenant: {}", who(p), p.exe)
                       : fmt::format("{} could not be killed: {}", who(p), p.exe),
                fields);
}

// What the library counted since the last sample: better than NVML's estimate, and there only while the tenant's time is
// limited. Nothing if it has never counted: an older library may be loaded there. What stood in the region when it was first
// seen belongs to rows of before.
std::optional<std::uint64_t> Watch::counted_ms(const TenantDevice& key,
                                               const wire::DeviceView& device) {
  const auto at = counted_.try_emplace(key, Counted{device.used_ns, 0}).first;
  Counted& c = at->second;
  // our own sums: they fall only if the tenant is another of the same name
  const std::uint64_t more_ns = device.used_ns > c.seen_ns ? device.used_ns - c.seen_ns : 0;
  c.seen_ns = device.used_ns;
  if (device.compute_x100 == 0 || device.used_ns == 0) return std::nullopt;
  const std::uint64_t all_ns = more_ns + c.rest_ns;
  c.rest_ns = all_ns % 1'000'000;
  return all_ns / 1'000'000;
}

// It may have been a member before its tenant's region became faulty and we began: its operator says which.
void Watch::spare(const Now& now, const policy::SeenProcess& p, const std::string& faulty) {
  if (spared_.size() > 1024) spared_.erase(spared_.begin());
  if (std::exchange(spared_[p.pid], p.start_ticks) == p.start_ticks) return;
  EventFields fields;
  fields.severity = wire::Severity::kWarning;
  fields.tenant = faulty;
  fields.pid = p.pid;
  fields.uid = p.uid;
  journal_.post(now, wire::EventKind::kTenantFaulty,
                fmt::format("{} is not killed: it may be of this tenant, whose region is faulty; "
                            "'bulkhead rm {}' ends that",
                            who(p), faulty),
                fields);
}

void Watch::sample_usage(const Now& now) {
  std::vector<UsageSample> samples;
  std::map<TenantDevice, Counted> still;
  std::map<TenantDevice, Compared> limited;
  for (const std::string& tenant : regions_.names()) {
    wire::TenantView view{};
    if (!regions_.view(tenant, view)) continue;
    for (unsigned d = 0; d < std::min(view.device_count, wire::kMaxDevices); ++d) {
      const wire::DeviceView& device = view.devices[d];
      UsageSample s{tenant, device_id(device.uuid), device.used_bytes, device.processes != 0};
      if (d == 0) s.refused_total = view.refused;
      if (const auto known = gpu_time_known_.find(s.device);
          known != gpu_time_known_.end() && known->second) {
        const auto use = gpu_use_.find({tenant, s.device});
        s.gpu_ms = use == gpu_use_.end() ? 0 : use->second.ms;
        if (const TenantDevice key{tenant, s.device}; device.compute_x100 != 0) {
          compare_time(now, key, s.gpu_ms, device.used_ns);
          limited[key] = compared_[key];
        }
      }
      if (const auto ms = counted_ms({tenant, s.device}, device); ms) s.gpu_ms = s.counted_ms = *ms;
      s.moved_total = moved_bytes(device);
      still[{tenant, s.device}] = counted_[{tenant, s.device}];
      samples.push_back(std::move(s));
    }
  }
  counted_ = std::move(still);  // those that are there
  compared_ = std::move(limited);
  gpu_use_.clear();
  gpu_time_known_.clear();  // until the next round says so again
  usage_.sample(now, samples);
  sampled_ns_ = now.mono_ns;
}

void Watch::watch_clock(const Now& now) {
  if (before_.mono_ns != 0) {
    const auto span = static_cast<std::int64_t>(now.boot_ns - before_.boot_ns);
    const std::int64_t jump = now.unix_ns - before_.unix_ns - span;
    if (jump > kUsageJump_ns || jump < -kUsageJump_ns) {
      journal_.post(now, wire::EventKind::kClockJumped,
                    fmt::format("the system's clock moved by {:+d} s", jump / 1'000'000'000),
                    {wire::Severity::kNotice});
    }
  }
  before_ = now;
}

void Watch::watch_store(const Now& now) {
  if (store_ == nullptr) return;
  const StoreHealth health = store_->health();
  counters_.events_lost = health.lost_lines;
  if (health.failing == store_failed_) return;
  store_failed_ = health.failing;
  if (health.failing) {
    lost_before_ = health.lost_lines;
    journal_.post(now, wire::EventKind::kStoreFailed,
                  fmt::format("{} cannot be written: {}; tried again each second", health.file,
                              std::strerror(health.error_number)),
                  {wire::Severity::kAlarm});
  } else {
    journal_.post(now, wire::EventKind::kStoreRecovered,
                  fmt::format("the state directory can be written again; {} lines were lost",
                              health.lost_lines - lost_before_),
                  {wire::Severity::kNotice});
  }
}

void Watch::store_events() {
  if (store_ == nullptr) return;
  std::uint32_t lost = 0;  // cannot be: a turn posts fewer events than are kept
  for (const wire::EventView& event : journal_.after(stored_id_, Journal::kKept, lost)) {
    store_->append_event(wire::event_line(event));
    stored_id_ = event.id;
  }
}

void Watch::finish(const Now& now) {
  sample_usage(now);
  usage_.write_now();
  journal_.settle(now, true);
  store_events();
}

std::vector<wire::StrayView> Watch::strays() const {
  std::vector<wire::StrayView> out;
  for (const policy::Stray& s : strays_) {
    wire::StrayView v{};
    v.pid = s.process.pid;
    v.uid = s.process.uid;
    v.start_ticks = s.process.start_ticks;
    std::copy(s.device.begin(), s.device.end(), v.uuid);
    v.bytes = s.bytes;
    v.kind = s.kind == policy::StrayKind::kDrift       ? wire::StrayKind::kDrift
             : s.kind == policy::StrayKind::kHoldsNode ? wire::StrayKind::kHoldsNode
                                                       : wire::StrayKind::kUnregistered;
    v.sightings = s.sightings;
    const std::string command = wire::clean_text(s.process.command, sizeof v.command - 1);
    std::memcpy(v.command, command.data(), command.size());
    const std::string owner = s.tenant.empty() && tenant_of ? tenant_of(s.process) : s.tenant;
    std::memcpy(v.tenant, owner.data(), std::min(owner.size(), sizeof v.tenant - 1));
    out.push_back(v);
  }
  return out;
}

std::vector<wire::NodeDevice> Watch::devices() const {
  std::vector<wire::NodeDevice> out;
  for (const RoundDevice& d : round_.devices) {
    wire::NodeDevice v{};
    std::copy(d.uuid.begin(), d.uuid.end(), v.uuid);
    std::memcpy(v.name, d.name.data(), std::min(d.name.size(), sizeof v.name - 1));
    v.index = d.index;
    v.flags = d.mig ? 1 : 0;
    v.total_bytes = d.total_bytes;
    v.usable_bytes = d.total_bytes - std::min(d.total_bytes, d.reserved_bytes);
    v.used_bytes = d.used_bytes;
    v.utilisation_x100 = d.utilisation_x100;
    out.push_back(v);
  }
  return out;
}

std::uint64_t Watch::overhead_bytes(const std::uint8_t* uuid) const {
  const auto at = overhead_.find(device_id(uuid));
  return at == overhead_.end() ? 0 : at->second;
}

void Watch::fill(wire::TenantView& view) const {
  const std::string tenant{wire::text_of(view.name, sizeof view.name)};
  for (unsigned d = 0; d < std::min(view.device_count, wire::kMaxDevices); ++d) {
    wire::DeviceView& device = view.devices[d];
    const DeviceId id = device_id(device.uuid);
    const UsageTotals totals = usage_.totals(tenant, id);
    device.byte_seconds = totals.byte_seconds;
    device.held_ms = totals.held_ms;
    device.gpu_ms = totals.gpu_ms;
    device.counted_ms = totals.counted_ms;
    device.share_x100 = wire::kUnknownShare;
    for (const RoundDevice& r : round_.devices) {
      if (r.uuid != id || !r.gpu_time_known) continue;
      const auto share = share_x100_.find({tenant, id});
      device.share_x100 = share == share_x100_.end() ? 0 : share->second;
    }
  }
}

WatchCounters Watch::counters() const { return counters_; }

}  // namespace bulkhead::daemon
