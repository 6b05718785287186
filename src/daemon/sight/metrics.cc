#include "daemon/sight/metrics.h"

#include <array>

#include "daemon/sight/text.h"

namespace bulkhead::daemon {
namespace {

constexpr double kNsPerS = 1e9;

void one(Exposition& out, Type type, std::string_view name, std::string_view unit,
         std::string_view help, std::uint64_t value) {
  out.family(type, name, unit, help);
  out.sample({}, value);
}

void write_reaping(Exposition& out, const wire::DaemonView& d) {
  one(out, Type::kCounter, "bulkhead_reaped_processes", "",
      "Processes that ended without leaving and were taken back.", d.reaped_processes);
  one(out, Type::kCounter, "bulkhead_reaped_memory_bytes", "bytes", "Memory they had held.",
      d.reaped_bytes);
  out.family(Type::kHistogram, "bulkhead_reap_delay_seconds", "seconds",
             "From the kernel's report of a death to the process's slot being free.");
  std::uint64_t sum = 0;
  for (unsigned i = 0; i < wire::kDelayBuckets; ++i) {
    sum += d.reap_delays[i];
    if (i + 1 < wire::kDelayBuckets) {
      out.bucket({}, static_cast<double>(std::uint64_t{1} << i) / 1e6, sum);
    }
  }
  out.sum_and_count({}, static_cast<double>(d.reap_delay_sum_ns) / kNsPerS, sum);
}

}  // namespace

void write_siem(Exposition& out, const wire::DaemonView& d) {
  if (d.siem_state == 0) return;
  one(out, Type::kGauge, "bulkhead_siem_connected", "", "1 while the SIEM takes events.",
      d.siem_state == 2 ? 1 : 0);
  one(out, Type::kGauge, "bulkhead_siem_behind", "",
      "Signed entries of the audit log that were not sent yet.", d.siem_behind);
  one(out, Type::kGauge, "bulkhead_siem_unconfirmed", "",
      "Entries that were sent and that the SIEM has not confirmed.", d.siem_unconfirmed);
  one(out, Type::kCounter, "bulkhead_siem_events_sent", "",
      "Events sent to the SIEM, those sent again included.", d.siem_sent);
  one(out, Type::kCounter, "bulkhead_siem_events_confirmed", "", "Of them, those it confirmed.",
      d.siem_confirmed);
  one(out, Type::kCounter, "bulkhead_siem_connections", "", "Connections to it that were made.",
      d.siem_connections);
  one(out, Type::kCounter, "bulkhead_siem_missed", "",
      "Entries that were gone from the log before they were sent.", d.siem_missed);
}

void write_daemon(Exposition& out, const wire::DaemonView& d) {
  out.family(Type::kInfo, "bulkhead_build", "", "Version of the daemon.");
  out.sample({{"version", d.version}}, std::uint64_t{1});
  out.family(Type::kGauge, "bulkhead_daemon_start_time_seconds", "seconds",
             "When the daemon started, since the epoch.");
  out.sample({}, static_cast<double>(d.started_unix_s));
  out.family(Type::kCounter, "bulkhead_daemon_cpu_seconds", "seconds",
             "Processor time of the daemon.");
  out.sample({}, static_cast<double>(d.cpu_ns) / kNsPerS);
  one(out, Type::kGauge, "bulkhead_daemon_resident_memory_bytes", "bytes",
      "Resident memory of the daemon.", d.rss_bytes);
  one(out, Type::kCounter, "bulkhead_requests", "", "Requests on the control socket.",
      d.requests_total);
  one(out, Type::kCounter, "bulkhead_requests_refused", "", "Requests that were refused.",
      d.requests_refused);
  one(out, Type::kCounter, "bulkhead_requests_malformed", "",
      "Messages that were no request; their senders were cut off.", d.requests_malformed);
  one(out, Type::kGauge, "bulkhead_admission_waiting", "", "Front ends waiting for room on a GPU.",
      d.waiting);
  one(out, Type::kCounter, "bulkhead_events", "", "Events reported.", d.events_total);
  one(out, Type::kCounter, "bulkhead_events_lost", "", "Events that could not be written to disk.",
      d.events_lost);
  one(out, Type::kCounter, "bulkhead_sentinel_rounds", "",
      "Rounds in which NVML was compared with the books.", d.sentinel_rounds);
  one(out, Type::kCounter, "bulkhead_sentinel_failures", "", "Rounds that could not be finished.",
      d.sentinel_failures);
  one(out, Type::kCounter, "bulkhead_bypasses_found", "",
      "Processes found that use a GPU around the library.", d.bypasses_found);
  one(out, Type::kCounter, "bulkhead_bypasses_killed", "", "Such processes that were killed.",
      d.bypasses_killed);
  one(out, Type::kCounter, "bulkhead_audit_entries", "", "Entries that the audit log took over.",
      d.audit_entries);
  one(out, Type::kCounter, "bulkhead_audit_violations", "",
      "Of them, those that no grant covers and that the library had let through.",
      d.audit_violations);
  one(out, Type::kCounter, "bulkhead_audit_malformed", "",
      "Of them, those that the library cannot have written.", d.audit_malformed);
  one(out, Type::kGauge, "bulkhead_audit_lanes", "", "Lanes that tenants have.", d.audit_lanes);
  one(out, Type::kGauge, "bulkhead_audit_lane_high_water", "",
      "Most entries that were found waiting in one lane.", d.audit_high_water);
  one(out, Type::kCounter, "bulkhead_audit_sink_stalls", "",
      "Times the log had no room and the lanes had to wait.", d.audit_sink_stalls);
  one(out, Type::kCounter, "bulkhead_audit_waits", "",
      "Entries that had to wait for room in their lane.", d.audit_waits);
  one(out, Type::kCounter, "bulkhead_audit_refused", "",
      "Transfers that were refused because their lane was full.", d.audit_refused);
  one(out, Type::kCounter, "bulkhead_audit_unrecorded", "",
      "Transfers that went on unrecorded because their lane was full.", d.audit_unrecorded);
  write_audit(out, d.audit);
  write_siem(out, d);
  write_reaping(out, d);
}

void write_strays(Exposition& out, const wire::Picture& p) {
  using wire::StrayKind;
  struct Row {
    StrayKind kind;
    const char* name;
  };
  // Every kind for every GPU, zero as well, so that an alert can end.
  constexpr std::array<Row, 3> kRows{{{StrayKind::kUnregistered, "unregistered"},
                                      {StrayKind::kDrift, "drift"},
                                      {StrayKind::kHoldsNode, "holds-node"}}};
  struct Sum {
    std::uint64_t count = 0, bytes = 0;
  };
  const auto sum_of = [&](const wire::NodeDevice& device, StrayKind kind) {
    Sum sum;
    for (std::uint32_t i = 0; i < p.strays; ++i) {
      const wire::StrayView& s = p.stray[i];
      if (s.kind != kind || gpu_text(s.uuid) != gpu_text(device.uuid)) continue;
      ++sum.count;
      sum.bytes += s.bytes;
    }
    return sum;
  };
  for (const bool bytes : {false, true}) {
    out.family(Type::kGauge, bytes ? "bulkhead_stray_memory_bytes" : "bulkhead_strays",
               bytes ? "bytes" : "",
               bytes ? "GPU memory that no tenant's books explain."
                     : "Processes on a GPU that no tenant's books explain.");
    for (std::uint32_t i = 0; i < p.devices; ++i) {
      for (const Row& row : kRows) {
        const Sum sum = sum_of(p.device[i], row.kind);
        out.sample({{"gpu_uuid", gpu_text(p.device[i].uuid)}, {"kind", row.name}},
                   bytes ? sum.bytes : sum.count);
      }
    }
  }
}

std::string render_metrics(const MetricsInput& input, Format format) {
  Exposition out{format};
  one(out, Type::kGauge, "bulkhead_up", "",
      "1 if the daemon is alive and writes what is shown here.", input.fresh ? 1 : 0);
  if (input.picture != nullptr) {
    const wire::Picture& p = *input.picture;
    out.family(Type::kGauge, "bulkhead_picture_age_seconds", "seconds",
               "How old the figures below are.");
    out.sample({}, input.age_s);
    write_daemon(out, p.daemon);
    // Old figures are not repeated as if they were of now: the series end, as those of a dead exporter do.
    if (input.fresh) {
      write_devices(out, p);
      write_tenants(out, p);
      write_strays(out, p);
      if (input.hami_names) write_hami(out, p);
      if (input.dcgm_names) write_dcgm(out, p);
    }
  }
  return out.finish();
}

}  // namespace bulkhead::daemon
