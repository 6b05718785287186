// The exporter, as the configuration in force wants it.
#include <sys/utsname.h>

#include "daemon/node_whole.h"

namespace bulkhead::daemon {

void WholeNode::take_siem() {
  siem::Orders orders;
  orders.log = audit_.log_directory();
  if (!orders.log.empty()) orders.settings = config_.siem;  // without a log: nothing to send
  orders.state = state_ + "/siem";
  orders.version = kVersion;
  utsname host{};
  if (::uname(&host) == 0) orders.host = host.nodename;
  const auto tell = [this](wire::EventKind kind, wire::Severity severity, const std::string& text) {
    journal_->post(loop_.read_clock(), kind, text, {severity});
  };
  if (std::string problem = siem_.take(orders, tell); !problem.empty())
    tell(wire::EventKind::kSiemFailed, wire::Severity::kAlarm, problem);
}

}  // namespace bulkhead::daemon
