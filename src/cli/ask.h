// Questions to the daemon whose answers are lists: events, usage, strays; and where the same is found on disk.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cli/machine.h"
#include "wire/client.h"
#include "wire/messages.h"

namespace bulkhead::cli {

// nullopt: nobody answers; `problem` says why if a socket is there.
[[nodiscard]] std::optional<wire::Client> connect_daemon(const Machine& machine,
                                                         std::string& problem);
// One reply after the other, until the daemon says that was all. `use` gets a checked message; false ends it. -> "" or why
// it failed.
template <class Q>
std::string ask_all(wire::Client& client, wire::Kind kind, Q& request, bool for_ever,
                    const std::function<bool(const void*)>& use);
extern template std::string ask_all(wire::Client&, wire::Kind, wire::EventsRequest&, bool,
                                    const std::function<bool(const void*)>&);
extern template std::string ask_all(wire::Client&, wire::Kind, wire::UsageRequest&, bool,
                                    const std::function<bool(const void*)>&);
extern template std::string ask_all(wire::Client&, wire::Kind, wire::NameRequest&, bool,
                                    const std::function<bool(const void*)>&);
extern template std::string ask_all(wire::Client&, wire::Kind, wire::Empty&, bool,
                                    const std::function<bool(const void*)>&);

// What only the daemon knows; nullopt if none answers. Quiet: never a line on stderr.
struct TenantMode {
  std::uint32_t asked = 0, enforcer = 0, mps_state = 0;  // of wire::TenantView
  std::uint32_t owner_uid = 0;
  std::string mps_group;
};
struct DaemonSays {
  std::map<std::string, TenantMode> modes;
  std::vector<wire::StrayView> strays;
  std::map<std::pair<std::string, Uuid>, std::uint32_t> delivered_x100;  // by tenant and device
  std::map<std::string, bool> latency;                                   // by tenant: its priority
  std::map<Uuid, std::uint32_t> gate_bound_us;                           // by device
  std::map<Uuid, wire::NodeDevice> devices;
};
[[nodiscard]] std::optional<DaemonSays> ask_list(const Machine& machine);

// The directory in which a daemon of this machine keeps its files, whether or not it is there.
[[nodiscard]] std::string daemon_state(const Machine& machine);

}  // namespace bulkhead::cli
