// bulkheadd.toml (DESIGN 8): what the operator wants of the daemon and which tenants there are. Text in, values or one line
// out; nothing is opened but the file. Sizes in percent wait for the devices: resolve_tenants().
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/outcome.h"
#include "daemon/ledger.h"
#include "daemon/siem/target.h"
#include "gpu/selftest.h"
#include "gpu/timeslice.h"
#include "policy/size.h"
#include "wire/record.h"

namespace bulkhead::daemon {

inline constexpr const char* kConfigFile = "/etc/bulkhead/bulkheadd.toml";
inline constexpr const char* kTrustFile = "/etc/bulkhead/trust/jwks.json";
inline constexpr int kExitConfig = 78;  // EX_CONFIG of sysexits.h

enum class LogLevel : std::uint8_t { kError, kWarning, kInfo, kDebug };
enum class OnBypass : std::uint8_t { kReport, kKill };

struct ConfiguredTenant {
  wire::TenantRecord record{};       // without devices; owner_uid is kNoId unless match.uid says
  std::vector<std::string> devices;  // as written: "GPU-..." or its beginning; empty: all
  policy::MemorySpec memory;
  bool has_memory = false;  // false: the whole of each device
  std::uint32_t compute_x100 = 0;
  std::uint32_t ceiling_x100 = 0;
  unsigned line = 0;  // of its [[tenant]]
};

struct Config {
  std::string file;

  // [daemon]
  std::uint16_t console_port = 0;  // on loopback; 0 = off; `console = true` is 9478
  std::uint16_t metrics_port = 0;  // the same; 9477
  bool hami_names = false;         // metrics_names: other exporters' names beside ours
  bool dcgm_names = false;
  LogLevel log_level = LogLevel::kInfo;
  bool self_test = false;
  // [policy]
  bool users_may_create = false;
  bool has_users_may_create = false;  // else the daemon's default: false for root
  policy::Size max_memory{};          // bytes 0 and no percent: no maximum
  std::uint32_t max_compute_x100 = 0;
  std::string default_tenant;  // unmatched = "default:NAME"
  unsigned default_line = 0;   // where it says so
  bool private_dirs = false;
  OnBypass bypass = OnBypass::kReport;
  std::vector<std::string> bypass_allow;  // names of commands
  // [reserve]
  std::string reserve_class;
  std::uint32_t reserve_x100 = 0;  // of each device's memory
  // [mps]; [audit]
  bool mps_enabled = false;
  std::vector<std::string> mps_groups;
  std::vector<std::string> mps_partition_groups;  // of mps_groups: started with -S
  std::string mps_control = "nvidia-cuda-mps-control";
  bool audit = false;  // [audit] is there
  std::string audit_dir, audit_full = "block";
  std::uint32_t audit_deadline_ms = 0, audit_sync_ms = 0;  // 0: the usual
  policy::Size audit_lane_budget{};                        // of a tenant's lanes; 0: the usual
  std::vector<std::string> audit_witnesses;
  struct AuditKeep {                   // what becomes of a log that is written
    policy::Size segment{};            // 0: the usual
    std::uint64_t segment_s = 86'400;  // a segment also ends when it is that old
    bool pack = true;
    std::uint32_t retain_days = 0;  // 0: for ever
    policy::Size retain_size{};     // of all segments; 0: no bound
    std::uint32_t witness_s = 10;
  } audit_keep;
  siem::Settings siem;  // config_siem.cc
  // [trust]
  std::string trust_jwks, trust_audience, trust_issuer;
  std::string trust_text;  // of that file, read with this one
  // PEM of the firm's root: the library is preloaded only as it was signed. The manifest; "" is kShimManifest.
  std::string trust_shim_root, trust_shim;

  std::vector<ConfiguredTenant> tenants;    // in file order
  std::vector<gpu::SelfTest> self_tests;    // not of the file: read together with it
  std::vector<gpu::TimeSlice> time_slices;  // the same
  std::vector<std::string>
      idle;  // "[mps] enabled": set, and nothing acts on it yet; told by reload and doctor
};

// The problem is one line: "FILE:LINE: what; fix".
[[nodiscard]] Outcome<Config> parse_config(std::string_view text, const std::string& file);
// Reads the file, up to 1 MiB. A missing one is a problem too: who starts without a configuration does not name one.
[[nodiscard]] Outcome<Config> load_config(const std::string& file);

// Reads [trust] jwks, for root's daemon without one kTrustFile if it is there, into trust_text. The problem, or "". A file that others
// than root and the daemon's user may write is none.
[[nodiscard]] std::string read_trust_file(Config& config);

// The tenants with their devices and bytes. Problems: a GPU that is not there, a limit below 2 MiB or over a device, and the sum of all
// of them over a device less the reserve, each with file and line. `daemon_uid` owns those whose match names no uid.
[[nodiscard]] Outcome<std::vector<wire::TenantRecord>> resolve_tenants(
    const Config& config, const std::vector<Capacity>& devices, std::uint32_t daemon_uid);

// What is wrong with `unmatched = "default:NAME"` in a daemon of this uid: one line, or "". A region is one user's, so root's daemon
// is told whose the unmatched are. resolve_tenants() asks it, too.
[[nodiscard]] std::string default_problem(const Config& config, std::uint32_t daemon_uid);

// GPU-8-4-4-4-12.
[[nodiscard]] std::string uuid_text(const std::uint8_t* uuid);

}  // namespace bulkhead::daemon
