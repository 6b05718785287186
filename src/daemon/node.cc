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
#include "daemon/node_whole.h"
#include "daemon/pidfd.h"

namespace bulkhead::daemon {
namespace {

namespace fs = std::filesystem;
using wire::EventKind;
using wire::Severity;
constexpr std::size_t kUsageBytes = 256u << 20;  // all of it: it is kept far smaller

}  // namespace

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
  config_.time_slices = gpu::load_time_slices(*tests_in_);
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
  take_siem();
  return grants_->set_keys(trust_of(config_), config_.trust_text, loop_.read_clock());
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
  take_slices();
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
      [this](bool good, const std::string& text) {
        journal_->post(loop_.read_clock(),
                       good ? EventKind::kStoreRecovered : EventKind::kStoreFailed, text,
                       {good ? Severity::kNotice : Severity::kAlarm});
      },
      [&book = grants_->book()](const AuditSession& session, const abi::AuditEntry& entry) {
        return book.check(session.tenant, session.devices, entry);
      },
      shim_of(),
      [this](const std::string& tenant) {
        const auto at = ledger_->entries().find(tenant);
        return at != ledger_->entries().end() &&
               at->second.record.audit_mode == wire::AuditMode::kEnforce;
      });
  if (!unaudited.empty()) return unaudited;
  wire_rollouts();
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
  if (looks_.is_open()) loop_.add(looks_);
  if (audit_.lanes() != nullptr) loop_.add(*audit_.lanes());
  loop_.add(*rollouts_);
  take_siem();
  loop_.add(siem_);
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
  (void)rollouts_->tick(loop_.read_clock());  // what the log is to be told
  audit_.stop();
  journal_->post(loop_.read_clock(), EventKind::kDaemonStopping,
                 "regions, node page and tenants stay");
  ledger_->tick(loop_.read_clock());  // the store's newest text
  watch_->finish(loop_.read_clock());
  sight_.stop();
  siem_.stop();
  store_->stop();
  return 0;
}

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
