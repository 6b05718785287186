// The metrics of a node from one copy of the picture. docs/metrics.md lists them.
#pragma once
#include <string>

#include "daemon/sight/exposition.h"
#include "wire/picture.h"

namespace bulkhead::daemon {

struct MetricsInput {
  const wire::Picture* picture = nullptr;  // null: none yet
  bool fresh = false;                      // false: the daemon has stopped writing
  double age_s = 0;                        // of the picture, by the wall clock; never negative
  bool hami_names = false;
  bool dcgm_names = false;
};
[[nodiscard]] std::string render_metrics(const MetricsInput& input, Format format);

// The parts of it, each a family after the other.
void write_audit(Exposition& out, const wire::AuditView& audit);
void write_daemon(Exposition& out, const wire::DaemonView& daemon);
void write_devices(Exposition& out, const wire::Picture& p);
void write_tenants(Exposition& out, const wire::Picture& p);
void write_strays(Exposition& out, const wire::Picture& p);
void write_hami(Exposition& out, const wire::Picture& p);
void write_dcgm(Exposition& out, const wire::Picture& p);

}  // namespace bulkhead::daemon
