#include "daemon/node.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>

#include "base/places.h"
#include "daemon/config.h"
#include "daemon/config_reader.h"
#include "daemon/governor.h"
#include "daemon/loop.h"
#include "daemon/node_parts.h"
#include "daemon/picture_writer.h"
#include "daemon/pidfd.h"
#include "daemon/regions_impl.h"
#include "daemon/server.h"
#include "daemon/service.h"
#include "daemon/sight/child.h"
#include "daemon/watch.h"

namespace bulkhead::daemon {
namespace {

namespace fs = std::filesystem;
using wire::EventKind;
using wire::Severity;
constexpr const char* kVersion = "0.1.0";
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
  std::unique_ptr<Store> store_;
  std::unique_ptr<Journal> journal_;
  std::unique_ptr<Usage> usage_;
  Loop loop_;
  Signals signals_;
  Watchdog watchdog_;
  std::unique_ptr<TenantRegions> regions_;
  std::unique_ptr<DeviceGovernor> governor_;
  std::unique_ptr<Ledger> ledger_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<Sentinel> sentinel_;
  std::unique_ptr<Watch> watch_;
  PictureWriter picture_;
  SightChild sight_;
  bool serves_sight_ = false;
  ConfigReader reader_;
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
  if (config_.file.empty()) return "";
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
  measured_ =
      measured_totals(simulated_ ? std::string{dir_.path} + "/sim" : user_state_directory());
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
  ledger_ = std::make_unique<Ledger>(*regions_, std::move(options));
  regions_->on_found = [this](const wire::TenantRecord& found) {
    return ledger_->adopt(found, loop_.read_clock());
  };
  regions_->on_read = [this] {
    if (sentinel_) sentinel_->ask();
  };
  regions_->on_gone = [this](const std::string& name) { ledger_->gone(name, loop_.read_clock()); };
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
    }
    out.push_back(view);
  }
  return out;
}

std::vector<wire::NodeDevice> WholeNode::device_views() {
  std::vector<wire::NodeDevice> out = watch_->devices();
  for (wire::NodeDevice& device : out) {
    device.promised_bytes = ledger_->promised(device.uuid);
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
  std::strncpy(d.version, kVersion, sizeof d.version - 1);
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
  reader_.apply = [this](Outcome<Config> read) { return reload(std::move(read)); };
  picture_.providers.daemon = [this](wire::DaemonView& d) { fill_daemon(d); };
  server_ = std::make_unique<Server>(loop_.poller(), *ledger_, std::move(options), std::move(p));
}

// Twice: what was answered survives our own death at once in the directory, beside the regions it is about (tmpfs: no
// sync, nothing waits); a reboot loses that, and finds what the store's thread wrote.
void WholeNode::keep_tenants(const std::string& json) {
  constexpr const char* kNew = "tenants.json.new";
  const UniqueFd fd{
      ::openat(dir_.fd.get(), kNew, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600)};
  const auto size = static_cast<ssize_t>(json.size());
  const bool written = fd.ok() && ::write(fd.get(), json.data(), json.size()) == size;
  if (!written || ::renameat(dir_.fd.get(), kNew, dir_.fd.get(), kTenantsFile) != 0) {
    ::unlinkat(dir_.fd.get(), kTenantsFile, 0);  // an old one would outrank the store's
  }
  store_->replace(kTenantsFile, json);
}

std::string WholeNode::configure() {
  std::string problem = ledger_->configure(config_, loop_.read_clock());
  if (problem.empty() && watch_) watch_->set_rules(bypass_rules());
  return problem;
}

// All of it or nothing: what can fail comes first. The problem, or "".
std::string WholeNode::put_in_force(Outcome<Config> read) {
  if (!read.ok()) return read.problem;
  const auto fits = resolve_tenants(*read, ledger_->capacities(), ::geteuid());
  if (!fits.ok()) return fits.problem;
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
  if (sight) sight_.take(std::move(*sight));
  return "";
}

std::string WholeNode::condition() const {
  std::vector<std::string> restart;
  if (!serves_sight_) {  // started with --no-sight
    if (config_.console_port != 0) restart.emplace_back("[daemon] console (without --no-sight)");
    if (config_.metrics_port != 0) restart.emplace_back("[daemon] metrics (without --no-sight)");
  }
  return condition_text(restart, ledger_->waiting_for_their_end(), config_.idle);
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
  std::vector<wire::NodeDevice> devices;
  for (const RoundDevice& from : round.devices) {
    wire::NodeDevice to{};
    std::memcpy(to.uuid, from.uuid.data(), sizeof to.uuid);
    std::strncpy(to.name, from.name.c_str(), sizeof to.name - 1);
    to.index = from.index;
    to.total_bytes = from.total_bytes;
    to.usable_bytes = from.total_bytes - std::min(from.total_bytes, from.reserved_bytes);
    devices.push_back(to);
  }
  note_devices(devices);
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
  ledger_->settle(loop_.read_clock());
  governor_ = std::make_unique<DeviceGovernor>(*regions_, loop_.poller());
  if (const Status bad = governor_->open(); !bad.ok()) return bad.text();
  watch_ = std::make_unique<Watch>(*regions_, *journal_, *usage_, store_.get(), bypass_rules());
  watch_->next_round = [this] { return sentinel_->take(); };
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
  for (Duty* duty :
       std::initializer_list<Duty*>{regions_.get(), governor_.get(), watch_.get(), &keeper_,
                                    &reader_, server_.get(), &picture_, &watchdog_}) {
    loop_.add(*duty);
  }
  if (options.sight) loop_.add(sight_);
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

std::string check_configuration(const std::string& file) {
  auto read = load_config(file);
  return read.ok() ? default_problem(*read, ::geteuid()) : read.problem;
}

}  // namespace bulkhead::daemon
