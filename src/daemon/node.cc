#include "daemon/node.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>

#include "base/places.h"
#include "daemon/audit_part.h"
#include "daemon/config.h"
#include "daemon/config_reader.h"
#include "daemon/governor.h"
#include "daemon/grants.h"
#include "daemon/loop.h"
#include "daemon/mps/manager.h"
#include "daemon/mps/self_tester.h"
#include "daemon/node_parts.h"
#include "daemon/picture_writer.h"
#include "daemon/pidfd.h"
#include "daemon/proc.h"
#include "daemon/regions_impl.h"
#include "daemon/server.h"
#include "daemon/service.h"
#include "daemon/shim_store.h"
#include "daemon/sight/child.h"
#include "daemon/watch.h"
#include "policy/compute/gate.h"

namespace bulkhead::daemon {
namespace {

namespace fs = std::filesystem;
using wire::EventKind;
using wire::Severity;
constexpr const char* kVersion = "0.1.0";
constexpr const char* kGrantsFile = "grants.json";
constexpr std::size_t kUsageBytes = 256u << 20;  // all of it: it is kept far smaller

class WholeNode final : public Node {
 public:
  std::string open_directory(const DaemonOptions& options);
  std::string open_state();
  void keep_tenants(const std::string& json);
  std::string read_configuration(const DaemonOptions& options);
  std::string start_parts(const DaemonOptions& options);
  int run() override;
  int exit_code = 1;

 private:
  void wire_regions();
  void wire_server();
  void wire_grants();
  std::string take_shim();
  [[nodiscard]] Trust trust_of(const Config& config) const;
  void keep_here(const char* file, const std::string& json);
  std::string configure();
  std::string put_in_force(Outcome<Config> read);
  Answer reload(Outcome<Config> read);
  void begin_reload(ConfigReader::Done done);
  std::string condition() const;
  void note_devices(const std::vector<wire::NodeDevice>& seen);
  std::vector<wire::TenantView> tenant_views();
  std::vector<wire::NodeDevice> device_views();
  void fill_daemon(wire::DaemonView& d) const;
  policy::BypassRules bypass_rules() const;
  void take_verdicts(const std::vector<gpu::SelfTest>& tests);
  void wire_mps();
  void take_modes();
  void wire_self_test();
  std::map<MpsKey, bool> mps_in_force() const;
  std::vector<std::uint32_t> pids_of_tenant(const std::string& name) const;
  void note_end(const RegionNews& news);
  SentinelOptions sentinel_options() const;
  std::vector<wire::EventView> events_after(std::uint64_t id, std::size_t most,
                                            std::uint32_t& lost) {
    return journal_->after(id, most, lost);
  }

  shm::Dir dir_;
  UniqueFd lock_;
  bool simulated_ = false;
  std::string state_, nvml_directory_;
  Config config_;
  std::map<DeviceId, std::uint64_t> measured_;
  std::map<DeviceId, shm::Verdict> verdicts_;  // of the driver that runs
  std::string driver_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<Usage> usage_;
  Loop loop_;
  Signals signals_;
  Watchdog watchdog_;
  std::unique_ptr<TenantRegions> regions_;
  std::unique_ptr<DeviceGovernor> governor_;
  std::unique_ptr<Ledger> ledger_;
  std::unique_ptr<Grants> grants_;
  ShimCopy shim_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<Sentinel> sentinel_;
  std::unique_ptr<Watch> watch_;
  std::unique_ptr<MpsManager> mps_;
  AuditPart audit_;
  std::unique_ptr<SelfTester> tester_;
  PictureWriter picture_;
  SightChild sight_;
  bool serves_sight_ = false;
  // Where self-tests are kept, known once there is a state directory; the reader's thread may outlive this.
  std::shared_ptr<std::string> tests_in_ = std::make_shared<std::string>();
  ConfigReader reader_{[where = tests_in_](const std::string& file) {
    auto read = load_config(file);
    if (read.ok()) read->self_tests = gpu::load_self_tests(*where);
    return read;
  }};
  std::uint64_t capacity_round_ = 0;
  Now started_ = read_clocks();

  // The ledger's part of a turn, and what the sentinel's newest round changes in its sums.
  struct Keeper : Duty {
    explicit Keeper(WholeNode& n) : node(n) {}
    int tick(const Now& now) override {
      if (node.watch_->round().number != node.capacity_round_) {
        node.capacity_round_ = node.watch_->round().number;
        node.note_devices(node.watch_->devices());
      }
      node.ledger_->tick(now);
      return 1000;
    }
    const char* name() const override { return "ledger"; }
    WholeNode& node;
  } keeper_{*this};
};

std::string WholeNode::open_directory(const DaemonOptions& options) {
  simulated_ = !options.simulator.empty();
  if (simulated_) {
    nvml_directory_ = find_simulator();
    if (nvml_directory_.empty()) {
      return "the simulated driver is not installed: expected ../sim beside this program or "
             "/usr/lib/bulkhead/sim";
    }
    ::setenv("BULKHEAD_SIM", options.simulator.c_str(), 1);
  }
  if (!options.directory.empty()) ::setenv("BULKHEAD_DIR", options.directory.c_str(), 1);
  shm::DirOptions where = shm::dir_options(simulated_, true);
  auto dir = shm::open_dir(where);
  if (!dir.ok()) {
    const std::string named = where.asked != nullptr ? where.asked : where.root_dir;
    return named + ": " + dir.status().text() + "; name a directory you own with --dir";
  }
  dir_ = std::move(*dir);
  ::setenv("BULKHEAD_DIR", dir_.path, 1);  // the simulated NVML keeps its state below it
  auto lock = lock_directory_for_daemon(dir_.fd.get(), dir_.path);
  if (!lock.ok()) return lock.problem;
  lock_ = std::move(*lock);
  return "";
}

std::string WholeNode::read_configuration(const DaemonOptions& options) {
  config_.file = options.config_file;
  if (config_.file.empty() && ::geteuid() == 0 && ::access(kConfigFile, F_OK) == 0) {
    config_.file = kConfigFile;
  }
  if (config_.file.empty()) return read_trust_file(config_);
  auto read = load_config(config_.file);
  if (!read.ok()) return read.problem;
  config_ = std::move(*read);
  return "";
}

std::string WholeNode::open_state() {
  state_ = daemon_state_directory(dir_.path, simulated_);
  std::error_code failed;
  fs::create_directories(state_, failed);
  StoreOptions options;
  options.directory = state_;
  auto store = Store::open(options);
  if (!store.ok()) return store.problem;
  store_ = std::move(*store);
  std::vector<wire::EventView> past;
  for (const char* file : {kEventsBefore, kEventsFile}) {
    for (const std::string& line : read_last_lines(state_, file, Journal::kKept, kStateBytes)) {
      wire::EventView event{};
      if (wire::parse_event_line(line, event)) past.push_back(event);
    }
  }
  journal_ = std::make_unique<Journal>();
  if (!past.empty()) journal_->restore(past);
  usage_ = std::make_unique<Usage>(
      UsageSinks{[this](std::string line) { store_->append_usage(std::move(line)); },
                 [this](std::string text) { store_->replace(kUsageOpenFile, std::move(text)); }});
  usage_->restore(read_clocks(), read_state_file(state_, kUsageOpenFile, kStateBytes),
                  read_last_lines(state_, kUsageFile, ~std::size_t{0}, kUsageBytes));
  *tests_in_ = simulated_ ? std::string{dir_.path} + "/sim" : user_state_directory();
  measured_ = measured_totals(*tests_in_);
  config_.self_tests = gpu::load_self_tests(*tests_in_);
  return "";
}

SentinelOptions WholeNode::sentinel_options() const {
  SentinelOptions o;
  o.nvml_directory = nvml_directory_;
  o.simulator_state = std::string{dir_.path} + "/sim";
  return o;
}

policy::BypassRules WholeNode::bypass_rules() const {
  policy::BypassRules rules;
  rules.own_pid = static_cast<std::uint32_t>(::getpid());
  std::error_code none;
  const fs::path self = fs::read_symlink("/proc/self/exe", none);
  rules.own_programs = {self.string(), (self.parent_path() / "bulkhead").string()};
  rules.probe = file_id((self.parent_path() / "bulkhead").string());
  rules.kill = config_.bypass == OnBypass::kKill;
  rules.root_daemon = ::geteuid() == 0;
  rules.allow_paths = config_.bypass_allow;
  return rules;
}

// What NVML sees and what was measured, as the sums need it.
void WholeNode::note_devices(const std::vector<wire::NodeDevice>& seen) {
  std::vector<Capacity> out;
  for (const wire::NodeDevice& from : seen) {
    Capacity c{};
    std::memcpy(c.uuid, from.uuid, sizeof c.uuid);
    c.name = from.name;
    c.index = from.index;
    DeviceId id{};
    std::memcpy(id.data(), from.uuid, id.size());
    const auto known = measured_.find(id);
    // until it is measured: NVML's total less what the driver keeps of it, the same figure on an H200
    const std::uint64_t told = from.usable_bytes != 0 ? from.usable_bytes : from.total_bytes;
    c.total_bytes = known != measured_.end() ? known->second : told;
    c.overhead_bytes = watch_ ? watch_->overhead_bytes(from.uuid) : 0;
    out.push_back(std::move(c));
  }
  if (!out.empty())
    ledger_->set_capacities(std::move(out));  // a round without NVML changes nothing
}

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
    if (ledger_->mode_of(r).enforcer != policy::Enforcer::kSpatial) return;
    mps_->evict_all({r.mps_group, r.owner_uid}, pids_of_tenant(r.name));
  };
  options.no_audit = AuditPart::refusal(config_);
  ledger_ = std::make_unique<Ledger>(*regions_, std::move(options));
  regions_->on_found = [this](const wire::TenantRecord& found) {
    return ledger_->adopt(found, loop_.read_clock());
  };
  regions_->on_read = [this] {
    if (sentinel_) sentinel_->ask();
  };
  regions_->on_gone = [this](const std::string& name) { ledger_->gone(name, loop_.read_clock()); };
}

// ---- how shares are enforced: docs/spatial.md ----
std::vector<std::uint32_t> WholeNode::pids_of_tenant(const std::string& name) const {
  std::vector<std::uint32_t> out;
  for (const Regions::Member& m : regions_->members()) {
    if (m.tenant == name && m.pid != 0) out.push_back(m.pid);
  }
  return out;
}

std::map<MpsKey, bool> WholeNode::mps_in_force() const {
  std::map<MpsKey, bool> out;
  for (const auto& [name, e] : ledger_->entries()) {
    if (ledger_->mode_of(e.record).enforcer != policy::Enforcer::kSpatial) continue;
    wire::TenantView view{};
    out[{e.record.mps_group, e.record.owner_uid}] |=
        regions_->view(name, view) && view.processes != 0;
  }
  return out;
}

void WholeNode::note_end(const RegionNews& news) {
  if (news.kind != EventKind::kProcessReaped && news.kind != EventKind::kProcessEnded) return;
  const auto at = ledger_->entries().find(news.tenant);
  if (mps_ == nullptr || at == ledger_->entries().end()) return;
  const wire::TenantRecord& r = at->second.record;
  if (r.mps_group[0] == '\0') return;
  mps_->noted_end({r.mps_group, r.owner_uid},
                  "process " + std::to_string(news.pid) + " of tenant " + news.tenant);
}

void WholeNode::take_verdicts(const std::vector<gpu::SelfTest>& tests) {
  verdicts_.clear();
  for (const gpu::SelfTest& t : tests) {
    const auto uuid = gpu::parse_uuid(t.uuid);
    if (!uuid || t.driver != driver_) continue;
    verdicts_[*uuid] = t.verdict();
    regions_->set_verdict(uuid->data(), t.driver, t.verdict());
  }
}

// What the configuration allows and the self-tests saw, into force.
void WholeNode::take_modes() {
  if (mps_) take_verdicts(config_.self_tests);  // then there is a page
  ModeFacts facts;
  facts.rules = {config_.mps_enabled, config_.mps_groups};
  facts.verdict = [this](const std::uint8_t* uuid) {
    DeviceId id{};
    std::memcpy(id.data(), uuid, id.size());
    const auto at = verdicts_.find(id);
    return at == verdicts_.end() ? shm::Verdict{} : at->second;
  };
  ledger_->set_mode_facts(std::move(facts));
  if (mps_) mps_->configure(config_.mps_enabled, config_.mps_control);
}

void WholeNode::wire_mps() {
  MpsManager::Outside o;
  o.poller = &loop_.poller();
  o.directory = dir_.path;
  o.own_uid = ::geteuid();
  o.in_force = [this] { return mps_in_force(); };
  o.post = [this](const MpsKey& key, EventKind kind, Severity severity, const std::string& text) {
    EventFields fields;
    fields.severity = severity;
    fields.uid = key.uid;
    std::string tenants;
    for (const auto& [name, e] : ledger_->entries()) {
      if (key.group == static_cast<const char*>(e.record.mps_group) &&
          e.record.owner_uid == key.uid)
        tenants += (tenants.empty() ? "; tenants " : ", ") + name;
    }
    journal_->post(loop_.read_clock(), kind, kind == EventKind::kMpsHit ? text + tenants : text,
                   fields);
  };
  mps_ = std::make_unique<MpsManager>(std::move(o));
  take_modes();
  mps_->find_left();
}

void WholeNode::wire_self_test() {
  SelfTester::Outside o;
  std::error_code none;
  o.program = (fs::read_symlink("/proc/self/exe", none).parent_path() / "bulkhead").string();
  o.wanted = [this] {
    if (!config_.self_test) return false;
    for (const Capacity& c : ledger_->capacities()) {
      DeviceId id{};
      std::memcpy(id.data(), c.uuid, id.size());
      if (!verdicts_.contains(id)) return true;
    }
    return false;
  };
  o.idle = [this] {
    const Round& r = watch_->round();
    return r.seen.uses_known && r.seen.uses.empty();
  };
  o.mps_control = [this] { return config_.mps_enabled ? config_.mps_control : std::string{}; };
  o.ended = [this](bool ok) {
    EventFields fields;
    fields.severity = ok ? Severity::kInfo : Severity::kWarning;
    journal_->post(loop_.read_clock(), EventKind::kSelfTested,
                   ok ? "the GPUs were tested: 'bulkhead doctor' shows what was seen"
                      : "a self-test could not be made: 'bulkhead doctor --self-test' says why",
                   fields);
    if (!config_.file.empty()) begin_reload([](const Answer&) {});
  };
  for (char** v = environ; *v != nullptr; ++v) {
    if (std::strncmp(*v, "LD_PRELOAD=", 11) != 0) o.environment.emplace_back(*v);
  }
  tester_ = std::make_unique<SelfTester>(std::move(o));
}

std::vector<wire::TenantView> WholeNode::tenant_views() {
  std::vector<wire::TenantView> out;
  for (const std::string& name : regions_->names()) {
    wire::TenantView view{};
    if (!regions_->view(name, view)) continue;
    watch_->fill(view);
    if (const auto it = ledger_->entries().find(name); it != ledger_->entries().end()) {
      view.flags |= it->second.source == Source::kConfigured ? wire::kViewConfigured : 0u;
      view.priority = static_cast<std::uint32_t>(it->second.record.priority);
      view.compute_mode = static_cast<std::uint32_t>(it->second.record.compute_mode);
      view.since_unix_s = it->second.since_unix_s;
      const wire::TenantRecord& r = it->second.record;
      view.enforcer = static_cast<std::uint32_t>(ledger_->mode_of(r).enforcer);
      std::memcpy(view.mps_group, r.mps_group, sizeof view.mps_group);
      if (view.enforcer == static_cast<std::uint32_t>(policy::Enforcer::kSpatial))
        view.mps_state = mps_->serving({r.mps_group, r.owner_uid})  ? 1
                         : mps_->silent({r.mps_group, r.owner_uid}) ? 3
                                                                    : 2;
    }
    out.push_back(view);
  }
  return out;
}

std::vector<wire::NodeDevice> WholeNode::device_views() {
  std::vector<wire::NodeDevice> out = watch_->devices();
  for (wire::NodeDevice& device : out) {
    device.promised_bytes = ledger_->promised(device.uuid);
    const std::uint64_t bound_ns =
        policy::compute::gate_bound_ns(regions_->longest_batch_op_ns(device.uuid));
    device.gate_bound_us =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(bound_ns / 1000, ~std::uint32_t{0}));
    for (const Capacity& c : ledger_->capacities()) {
      if (std::memcmp(c.uuid, device.uuid, sizeof c.uuid) != 0) continue;
      device.usable_bytes = c.total_bytes;
      device.reserve_bytes = c.reserve_bytes;
    }
  }
  return out;
}

void WholeNode::fill_daemon(wire::DaemonView& d) const {
  const ReapFigures& r = regions_->reaped();
  const ServerCounts& s = server_->counts();
  const WatchCounters w = watch_->counters();
  d.started_unix_s = started_.unix_ns / 1'000'000'000;
  d.reaped_processes = r.processes;
  d.reaped_bytes = r.bytes;
  d.reap_delay_sum_ns = r.delay_sum_ns;
  std::copy(std::begin(r.delays), std::end(r.delays), std::begin(d.reap_delays));
  d.events_total = journal_->next_id() - 1;
  d.events_lost = w.events_lost;
  d.requests_total = s.requests;
  d.requests_refused = s.refused;
  d.requests_malformed = s.malformed;
  d.sentinel_rounds = w.rounds;
  d.sentinel_failures = w.failures;
  d.waiting = server_->waiting();
  d.bypasses_found = w.found;
  d.bypasses_killed = w.killed;
  audit_.fill(d);
  std::strncpy(d.version, kVersion, sizeof d.version - 1);
}

// Verification once, here; the rest is in the tables.
void WholeNode::wire_grants() {
  GrantsOutside outside;
  outside.post = [this](EventKind kind, const std::string& text, const EventFields& fields) {
    journal_->post(loop_.read_clock(), kind, text, fields);
  };
  outside.record = [this](const std::string& json) { audit_.record(json); };
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
  return publish_shim(dir_.fd.get(), shim_.path);
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
  p.condition = [this] { return condition(); };
  if (AuditLanes* lanes = audit_.lanes()) {
    p.lane = [lanes](const Peer& peer, const wire::LaneRequest& request, UniqueFd pidfd) {
      return lanes->request(peer, request, std::move(pidfd));
    };
  }
  p.grant = [this](const Peer& peer, const std::string& tenant, std::string_view token) {
    return grants_->present(peer, tenant, token, loop_.read_clock());
  };
  p.revoke = [this](const Peer& peer, wire::RevokeWhat what, const std::string& which) {
    return grants_->revoke(peer, what, which, loop_.read_clock());
  };
  p.grant_table = [this](const Peer& peer, const std::string& tenant, UniqueFd& out) {
    return grants_->table(peer, tenant, out);
  };
  reader_.apply = [this](Outcome<Config> read) { return reload(std::move(read)); };
  picture_.providers.daemon = [this](wire::DaemonView& d) { fill_daemon(d); };
  server_ = std::make_unique<Server>(loop_.poller(), *ledger_, std::move(options), std::move(p));
}

// Twice: what was answered survives our own death at once in the directory, beside the regions it is about (tmpfs: no
// sync, nothing waits); a reboot loses that, and finds what the store's thread wrote.
void WholeNode::keep_tenants(const std::string& json) {
  keep_here(kTenantsFile, json);
  store_->replace(kTenantsFile, json);
}

void WholeNode::keep_here(const char* file, const std::string& json) {
  const std::string made = std::string{file} + ".new";
  const UniqueFd fd{::openat(dir_.fd.get(), made.c_str(),
                             O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600)};
  const auto size = static_cast<ssize_t>(json.size());
  const bool written = fd.ok() && ::write(fd.get(), json.data(), json.size()) == size;
  if (!written || ::renameat(dir_.fd.get(), made.c_str(), dir_.fd.get(), file) != 0) {
    ::unlinkat(dir_.fd.get(), file, 0);  // an old one would outrank the store's
  }
}

std::string WholeNode::configure() {
  std::string problem = ledger_->configure(config_, loop_.read_clock());
  if (problem.empty() && watch_) watch_->set_rules(bypass_rules());
  if (problem.empty()) take_modes();
  return problem;
}

// All of it or nothing: what can fail comes first. The problem, or "".
std::string WholeNode::put_in_force(Outcome<Config> read) {
  if (!read.ok()) return read.problem;
  const auto fits = resolve_tenants(*read, ledger_->capacities(), ::geteuid());
  if (!fits.ok()) return fits.problem;
  if (std::string problem = Grants::problem_of(trust_of(*read), read->trust_text); !problem.empty())
    return problem;
  std::optional<SightChild::Prepared> sight;
  if (serves_sight_) {
    auto prepared = sight_.prepare(sight_setup(*read, dir_.path));
    if (!prepared.ok())
      return read->file + ": " + prepared.problem + "; free it or name another port";
    sight = std::move(*prepared);
  }
  std::swap(config_, *read);
  if (std::string problem = configure(); !problem.empty()) {
    std::swap(config_, *read);
    return problem;
  }
  ledger_->settle(loop_.read_clock());
  regions_->set_page_flags(config_.private_dirs ? shm::kPrivateDirs : 0u);
  audit_.set_rules(config_);
  if (sight) sight_.take(std::move(*sight));
  return grants_->set_keys(trust_of(config_), config_.trust_text, loop_.read_clock());
}

std::string WholeNode::condition() const {
  std::vector<std::string> restart;
  if (!serves_sight_) {  // started with --no-sight
    if (config_.console_port != 0) restart.emplace_back("[daemon] console (without --no-sight)");
    if (config_.metrics_port != 0) restart.emplace_back("[daemon] metrics (without --no-sight)");
  }
  if (const char* what = audit_.not_in_force(config_)) restart.emplace_back(what);
  std::string out = condition_text(restart, ledger_->waiting_for_their_end(), config_.idle);
  for (const std::string& other : ledger_->other_modes()) out += (out.empty() ? "" : "; ") + other;
  return out;
}

Answer WholeNode::reload(Outcome<Config> read) {
  Answer a;
  a.text = put_in_force(std::move(read));
  const bool ok = a.text.empty();
  if (!ok) a.result = Errc::kInvalid;
  if (ok) a.text = condition();
  EventFields fields;
  fields.severity = !ok ? Severity::kWarning : a.text.empty() ? Severity::kInfo : Severity::kNotice;
  journal_->post(loop_.read_clock(), ok ? EventKind::kConfigLoaded : EventKind::kConfigRefused,
                 a.text.empty() ? config_.file : a.text, fields);
  return a;
}

void WholeNode::begin_reload(ConfigReader::Done done) {
  if (!config_.file.empty()) return reader_.read(loop_.read_clock(), config_.file, std::move(done));
  done(
      reload(Outcome<Config>::because("there is no configuration file: start with --config FILE")));
}

std::string WholeNode::start_parts(const DaemonOptions& options) {
  wire_regions();
  Looker first{sentinel_options()};
  const Round round = first.look(read_clocks());
  driver_ = round.driver;
  note_devices(devices_of(round));
  std::string kept = read_state_file(dir_.path, kTenantsFile, kStateBytes);
  if (kept.empty()) kept = read_state_file(state_, kTenantsFile, kStateBytes);
  if (!kept.empty()) (void)ledger_->restore(kept);
  exit_code = kExitConfig;
  if (std::string problem = configure(); !problem.empty()) return problem;
  exit_code = 1;
  if (const Status bad = regions_->start(config_.private_dirs ? shm::kPrivateDirs : 0u);
      !bad.ok()) {
    return std::string{dir_.path} + ": " + bad.text() + ": " + std::strerror(bad.error_number());
  }
  wire_mps();
  ledger_->settle(loop_.read_clock());
  governor_ = std::make_unique<DeviceGovernor>(*regions_, loop_.poller());
  if (const Status bad = governor_->open(); !bad.ok()) return bad.text();
  wire_grants();
  exit_code = kExitConfig;
  if (std::string problem = take_shim(); !problem.empty()) return problem;
  if (std::string problem =
          grants_->set_keys(trust_of(config_), config_.trust_text, loop_.read_clock());
      !problem.empty())
    return problem;
  exit_code = 1;
  grants_->restore(read_state_file(dir_.path, kGrantsFile, kStateBytes),
                   read_state_file(state_, kGrantsFile, kStateBytes), loop_.read_clock());
  watch_ = std::make_unique<Watch>(*regions_, *journal_, *usage_, store_.get(), bypass_rules());
  watch_->next_round = [this] { return sentinel_->take(); };
  watch_->mps_servers = [this] { return mps_->servers(); };
  watch_->may_kill = [this](const policy::SeenProcess& p) {
    return mps_->evicted(p.pid, p.start_ticks);
  };
  std::string unaudited = audit_.start(
      config_, {dir_.fd.get(), dir_.path, state_}, loop_.poller(),
      [this](auto& text) {
        journal_->post(loop_.read_clock(), EventKind::kStoreFailed, text, {Severity::kAlarm});
      },
      [&book = grants_->book()](const AuditSession& session, const abi::AuditEntry& entry) {
        return book.check(session.tenant, session.devices, entry);
      });
  if (!unaudited.empty()) return unaudited;
  wire_server();
  if (const Status bad = picture_.open(); !bad.ok()) return bad.text();
  if (const Status bad = server_->listen(dir_.fd.get()); !bad.ok()) {
    return std::string{dir_.path} + "/control.sock: " + bad.text() + ": " +
           std::strerror(bad.error_number());
  }
  if (const Status bad = reader_.open(loop_.poller()); !bad.ok()) return bad.text();
  SignalHandlers handlers{[this] { loop_.stop(); }, [this] { begin_reload([](const Answer&) {}); }};
  if (const Status bad = signals_.open(loop_.poller(), std::move(handlers)); !bad.ok())
    return bad.text();
  serves_sight_ = options.sight;
  if (serves_sight_) {
    auto child = sight_.start(sight_setup(config_, dir_.path), picture_.fd());
    if (!child.ok()) return child.problem;
  }
  sentinel_ = Sentinel::start(sentinel_options());
  if (sentinel_->ready_fd() >= 0) {  // the duty takes the round
    (void)loop_.poller().add(sentinel_->ready_fd(), EPOLLIN, [](std::uint32_t) {});
  }
  for (Duty* duty : std::initializer_list<Duty*>{regions_.get(), governor_.get(), watch_.get(),
                                                 &keeper_, mps_.get(), grants_.get(), &reader_,
                                                 server_.get(), &picture_, &watchdog_}) {
    loop_.add(*duty);
  }
  wire_self_test();
  loop_.add(*tester_);
  if (options.sight) loop_.add(sight_);
  if (audit_.lanes() != nullptr) loop_.add(*audit_.lanes());
  journal_->post(loop_.read_clock(), EventKind::kDaemonStarted,
                 std::string{"bulkheadd "} + kVersion);
  if (const std::string waits = condition(); !waits.empty())
    journal_->post(loop_.read_clock(), EventKind::kConfigLoaded, waits, {Severity::kNotice});
  notify("READY=1");
  return "";
}

int WholeNode::run() {
  loop_.run();
  notify("STOPPING=1");
  server_->stop();
  audit_.stop();
  journal_->post(loop_.read_clock(), EventKind::kDaemonStopping,
                 "regions, node page and tenants stay");
  ledger_->tick(loop_.read_clock());  // the store's newest text
  watch_->finish(loop_.read_clock());
  sight_.stop();
  store_->stop();
  return 0;
}

}  // namespace

Outcome<std::unique_ptr<Node>> Node::start(const DaemonOptions& options, int& exit_code) {
  using Out = Outcome<std::unique_ptr<Node>>;
  auto node = std::make_unique<WholeNode>();
  raise_descriptor_limit();
  std::string problem = node->open_directory(options);
  exit_code = 1;
  if (problem.empty()) {
    problem = node->read_configuration(options);
    exit_code = kExitConfig;
  }
  if (problem.empty()) {
    problem = node->open_state();
    exit_code = 1;
  }
  if (problem.empty()) {
    problem = node->start_parts(options);
    exit_code = node->exit_code;
  }
  if (!problem.empty()) return Out::because(std::move(problem));
  return Out{std::unique_ptr<Node>{std::move(node)}};
}

}  // namespace bulkhead::daemon
