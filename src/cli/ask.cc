#include "cli/ask.h"

#include <sys/stat.h>
#include <unistd.h>

#include <memory>

#include "base/places.h"
#include "wire/lines.h"
#include "wire/parse.h"

namespace bulkhead::cli {
namespace {

constexpr int kPatience_ms = 5000;

}  // namespace

std::optional<wire::Client> connect_daemon(const Machine& machine, std::string& problem) {
  struct stat st {};
  if (!machine.dir.fd.ok() || ::fstat(machine.dir.fd.get(), &st) != 0) return std::nullopt;
  auto client = wire::Client::connect(machine.dir.fd.get(), st.st_uid, kPatience_ms);
  if (client.ok()) return std::move(*client);
  if (client.status().code() != Errc::kNotFound) problem = describe(client.status());
  return std::nullopt;
}

template <class Q>
std::string ask_all(wire::Client& client, wire::Kind kind, Q& request, bool for_ever,
                    const std::function<bool(const void*)>& use) {
  wire::begin(request, kind, client.next_sequence());
  if (const Status s = client.send(&request, sizeof request, kPatience_ms); !s.ok())
    return describe(s);
  const auto buffer = std::make_unique<std::uint64_t[]>(wire::kMaxMessage / 8);
  for (;;) {
    const auto got = client.receive(buffer.get(), wire::kMaxMessage, kind, client.sequence(),
                                    for_ever ? -1 : kPatience_ms);
    if (!got.ok()) return describe(got.status());
    const auto& header = *reinterpret_cast<const wire::Header*>(buffer.get());
    if (header.result != 0) return "the daemon refused the request";
    if (!use(buffer.get())) return {};
    if (!for_ever && (header.flags & wire::kMore) == 0) return {};
  }
}
template std::string ask_all(wire::Client&, wire::Kind, wire::EventsRequest&, bool,
                             const std::function<bool(const void*)>&);
template std::string ask_all(wire::Client&, wire::Kind, wire::UsageRequest&, bool,
                             const std::function<bool(const void*)>&);
template std::string ask_all(wire::Client&, wire::Kind, wire::NameRequest&, bool,
                             const std::function<bool(const void*)>&);
template std::string ask_all(wire::Client&, wire::Kind, wire::Empty&, bool,
                             const std::function<bool(const void*)>&);

std::optional<DaemonSays> ask_list(const Machine& machine) {
  std::string problem;
  auto client = connect_daemon(machine, problem);
  if (!client) return std::nullopt;
  DaemonSays out;
  wire::NameRequest request{};
  problem = ask_all(*client, wire::Kind::kList, request, false, [&](const void* message) {
    const auto& reply = *static_cast<const wire::ListReply*>(message);
    const auto* device = reinterpret_cast<const wire::NodeDevice*>(&reply + 1);
    const auto* stray = reinterpret_cast<const wire::StrayView*>(device + reply.devices);
    out.strays.insert(out.strays.end(), stray, stray + reply.strays);  // the first reply's only
    const auto* tenant = reinterpret_cast<const wire::TenantView*>(stray + reply.strays);
    for (std::uint32_t i = 0; i < reply.devices; ++i) {
      Uuid uuid;
      std::copy_n(device[i].uuid, uuid.size(), uuid.begin());
      out.gate_bound_us[uuid] = device[i].gate_bound_us;
      out.devices[uuid] = device[i];
    }
    for (std::uint32_t i = 0; i < reply.tenants; ++i) {
      out.latency[tenant[i].name] =
          tenant[i].priority == static_cast<std::uint32_t>(wire::Priority::kLatency);
      const wire::TenantView& t = tenant[i];
      out.modes[t.name] = {t.compute_mode, t.enforcer, t.mps_state, t.owner_uid,
                           std::string{wire::text_of(t.mps_group, sizeof t.mps_group)}};
      for (std::uint32_t d = 0; d < tenant[i].device_count; ++d) {  // checked by check_reply()
        Uuid uuid;
        std::copy_n(tenant[i].devices[d].uuid, uuid.size(), uuid.begin());
        out.delivered_x100[{tenant[i].name, uuid}] = tenant[i].devices[d].delivered_x100;
      }
    }
    return true;
  });
  if (!problem.empty()) return std::nullopt;
  return out;
}

std::string daemon_state(const Machine& machine) {
  return daemon_state_directory(machine.directory, machine.simulated);
}

}  // namespace bulkhead::cli
