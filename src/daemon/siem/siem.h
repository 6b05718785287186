// `bulkheadd --siem`: the exporter's process.
#pragma once
#include <string>

#include "daemon/siem/exporter.h"

namespace bulkhead::daemon::siem {

inline constexpr const char* kSiemFlag = "--siem";
inline constexpr int kOrdersFd = 3, kStatusFd = 4;

struct Orders {
  Settings settings;
  std::string log;    // the audit log's directory
  std::string state;  // where the position is kept; exists
  std::string host, version;
  int parent_pid = 0;
};
[[nodiscard]] std::string orders_text(const Orders& orders);
// False: not ours.
[[nodiscard]] bool parse_orders(const std::string& text, Orders& out);

// Reads everything that needs privileges, starts the opener, drops privileges and exports until it is killed or its parent ends. `status_fd`
// may be -1. Returns an exit code; the reason is in the status and on stderr.
int siem_main(const Orders& orders, int status_fd, ExporterOptions how);
// Takes descriptors 3 and 4.
int siem_child_main();

}  // namespace bulkhead::daemon::siem
