// The parts of bulkheadd in one object: node.cc starts and ends them, node_wiring.cc lets them speak to each other, node_views.cc says
// what they know, node_mps.cc is what spatial shares need of several of them. Control loop only.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/audit_part.h"
#include "daemon/config.h"
#include "daemon/config_reader.h"
#include "daemon/governor.h"
#include "daemon/grants.h"
#include "daemon/loop.h"
#include "daemon/mps/manager.h"
#include "daemon/mps/self_tester.h"
#include "daemon/node.h"
#include "daemon/node_parts.h"
#include "daemon/picture_writer.h"
#include "daemon/proc.h"
#include "daemon/regions_impl.h"
#include "daemon/rollout.h"
#include "daemon/server.h"
#include "daemon/service.h"
#include "daemon/shim_looks.h"
#include "daemon/shim_store.h"
#include "daemon/siem/child.h"
#include "daemon/sight/child.h"
#include "daemon/watch.h"

namespace bulkhead::daemon {

inline constexpr const char* kVersion = "0.1.0";
inline constexpr const char* kGrantsFile = "grants.json";

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
  void wire_rollouts();
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
  std::function<std::string(std::uint32_t)> shim_of();
  void wire_mps();
  void take_slices();
  void take_modes();
  void wire_self_test();
  void take_siem();
  std::map<MpsKey, bool> mps_in_force() const;
  [[nodiscard]] std::uint32_t mps_state(const std::string& name, const wire::TenantRecord& r) const;
  [[nodiscard]] bool held_by_mps(const wire::TenantRecord& r) const;
  [[nodiscard]] MpsKey mps_key(const wire::TenantRecord& r) const;
  std::vector<PartitionWant> partition_wants(const MpsKey& key, const PartitionBooks& books) const;
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
  ShimLooks looks_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<Sentinel> sentinel_;
  std::unique_ptr<Watch> watch_;
  std::unique_ptr<MpsManager> mps_;
  AuditPart audit_;
  std::unique_ptr<Rollouts> rollouts_;
  std::unique_ptr<SelfTester> tester_;
  PictureWriter picture_;
  SightChild sight_;
  SiemChild siem_;
  bool serves_sight_ = false;
  // Where self-tests are kept, known once there is a state directory; the reader's thread may outlive this.
  std::shared_ptr<std::string> tests_in_ = std::make_shared<std::string>();
  ConfigReader reader_{[where = tests_in_](const std::string& file) {
    auto read = load_config(file);
    if (read.ok()) read->self_tests = gpu::load_self_tests(*where);
    if (read.ok()) read->time_slices = gpu::load_time_slices(*where);
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

}  // namespace bulkhead::daemon
