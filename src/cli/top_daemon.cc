// The daemon's list (wire kind 7), merged into what the regions told.
#include <sys/stat.h>

#include <cstring>
#include <memory>

#include "cli/gpus.h"
#include "cli/say.h"
#include "cli/top_data.h"
#include "wire/client.h"

namespace bulkhead::cli {
namespace {

constexpr int kAnswer_ms = 1000;

double percent_of(std::uint32_t x100) {
  return x100 == wire::kUnknownShare ? kNoShare : static_cast<double>(x100) / 100;
}

// Texts end within their field (check_reply); a terminal wants printable ASCII besides.
std::string printable(const char* text) {
  std::string out = text;
  for (char& c : out) {
    if (c < ' ' || c > '~') c = '?';
  }
  return out;
}

std::string gpu_label(const TopPicture& p, const std::string& digits) {
  for (const TopGpu& g : p.gpus) {
    if (g.uuid == digits) return g.gpu;
  }
  return digits.substr(0, 3);
}

void take_device(TopPicture& p, const wire::NodeDevice& from) {
  const std::string digits = uuid_digits(from.uuid);
  TopGpu* to = nullptr;
  for (TopGpu& g : p.gpus) {
    if (g.uuid == digits) to = &g;
  }
  if (to == nullptr) {
    p.gpus.emplace_back();
    to = &p.gpus.back();
    to->uuid = digits;
    to->gpu = std::to_string(from.index);
    to->name = printable(from.name);
    to->total_bytes = from.total_bytes;
    to->used_bytes = from.used_bytes;
  }
  to->promised_bytes = from.promised_bytes;
  to->busy_percent = percent_of(from.utilisation_x100);
  to->gate_bound_us = from.gate_bound_us;
  to->told = true;
  to->flags = from.flags;
}

void take_stray(TopPicture& p, const wire::StrayView& from) {
  TopStray to;
  to.pid = from.pid;
  to.uid = from.uid;
  to.sightings = from.sightings;
  to.gpu = gpu_label(p, uuid_digits(from.uuid));
  to.command = printable(from.command);
  to.tenant = printable(from.tenant);
  to.bytes = from.bytes;
  to.kind = from.kind == wire::StrayKind::kDrift       ? "drift"
            : from.kind == wire::StrayKind::kHoldsNode ? "holds-node"
                                                       : "unregistered";
  p.strays.push_back(to);
}

TopDevice device_of(const wire::DeviceView& v, const std::string& digits, const std::string& gpu) {
  TopDevice d;
  d.uuid = digits;
  d.gpu = gpu;
  d.limit_bytes = v.limit_bytes;
  d.used_bytes = v.used_bytes;
  d.other_bytes = v.other_bytes;
  d.dead_bytes = v.dead_bytes;
  d.processes = v.processes;
  d.compute.floor_x100 = v.compute_x100;
  d.compute.ceiling_x100 = v.ceiling_x100;
  d.time = {v.used_ns, v.borrowed_ns, v.forgiven_ns, v.held_ns, v.launches, 0, v.rate_x100};
  d.time.gated_ns = v.gated_ns;
  d.time.gates = v.gates;
  return d;
}

// A tenant whose region we read keeps those figures: they are younger. The share is the daemon's alone.
void take_tenant(TopPicture& p, const wire::TenantView& from) {
  TopTenant* to = nullptr;
  for (TopTenant& t : p.tenants) {
    if (t.name == from.name) to = &t;
  }
  const bool fresh = to == nullptr || !to->problem.empty();
  if (to == nullptr) {
    p.tenants.emplace_back();
    to = &p.tenants.back();
    to->name = printable(from.name);
  }
  if (fresh) {
    to->problem.clear();
    to->by_daemon = true;
    to->over_limit = (from.flags & wire::kViewOverLimit) != 0;
    if ((from.flags & wire::kViewFaulty) != 0) to->problem = "its region cannot be read";
    to->refused = from.refused;
    to->faults = from.faults;
    to->processes = from.processes;
  }
  to->mode = {true,
              from.priority == static_cast<std::uint32_t>(wire::Priority::kLatency),
              from.compute_mode,
              from.enforcer,
              from.mps_state,
              printable(from.mps_group)};
  for (std::uint32_t i = 0; i < from.device_count; ++i) {
    const wire::DeviceView& v = from.devices[i];
    const std::string digits = uuid_digits(v.uuid);
    if (fresh) to->devices.push_back(device_of(v, digits, gpu_label(p, digits)));
    for (TopDevice& d : to->devices) {
      if (d.uuid != digits) continue;
      d.share_percent = percent_of(v.share_x100);
      d.delivered_percent = percent_of(v.delivered_x100);
      d.by_daemon = v.delivered_x100 != wire::kUnknownShare;
    }
  }
}

template <class T, class F>
const char* each(const char* at, std::uint32_t count, F&& f) {
  for (std::uint32_t i = 0; i < count; ++i, at += sizeof(T)) {
    auto one = std::make_unique<T>();
    std::memcpy(one.get(), at, sizeof(T));
    f(*one);
  }
  return at;
}

}  // namespace

bool ask_for_list(const shm::Dir& dir, TopPicture& picture) {
  struct stat st {};
  if (::fstat(dir.fd.get(), &st) != 0) return false;
  auto client = wire::Client::connect(dir.fd.get(), st.st_uid, kAnswer_ms);
  if (!client.ok()) {
    if (client.status().code() != Errc::kNotFound)
      picture.daemon_problem = describe(client.status());
    return false;
  }
  struct alignas(8) Buffer {
    char bytes[wire::kMaxMessage];
  };
  const auto buffer = std::make_unique<Buffer>();
  wire::NameRequest request{};
  wire::begin(request, wire::Kind::kList, client->next_sequence());
  Status status = client->send(&request, sizeof request, kAnswer_ms);
  while (status.ok()) {
    const auto got = client->receive(buffer->bytes, sizeof buffer->bytes, wire::Kind::kList,
                                     client->sequence(), kAnswer_ms);
    if (!got.ok()) {
      status = got.status();
      break;
    }
    wire::ListReply reply;
    std::memcpy(&reply.header, buffer->bytes, sizeof reply.header);
    if (*got < sizeof reply) {
      status = Status{static_cast<Errc>(reply.header.result), 0, "the daemon refused to list"};
      break;
    }
    std::memcpy(&reply, buffer->bytes, sizeof reply);
    const char* at = buffer->bytes + sizeof reply;
    at = each<wire::NodeDevice>(at, reply.devices, [&](const auto& d) { take_device(picture, d); });
    at = each<wire::StrayView>(at, reply.strays, [&](const auto& s) { take_stray(picture, s); });
    each<wire::TenantView>(at, reply.tenants, [&](const auto& t) { take_tenant(picture, t); });
    if ((reply.header.flags & wire::kMore) == 0) return true;
  }
  picture.daemon_problem = describe(status);
  return false;
}

}  // namespace bulkhead::cli
