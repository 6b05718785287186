#include "cli/audit_mode.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include "shm/node.h"
#include "wire/client.h"
#include "wire/messages.h"

namespace bulkhead::cli {
namespace {

constexpr int kPatience_ms = 5000;
constexpr std::uint32_t kEnforce = 2;

// What the daemon says to the question whether this tenant's processes would get lanes.
std::string ask(const shm::Dir& dir, const std::string& tenant) {
  struct stat st {};
  if (::fstat(dir.fd.get(), &st) != 0) return "cannot look at its directory";
  auto client = wire::Client::connect(dir.fd.get(), st.st_uid, kPatience_ms);
  if (!client.ok()) return client.status().text();
  wire::LaneRequest request{};
  wire::put_text(request.name, tenant.c_str());
  request.flags = wire::kLaneProbe | wire::kLaneEnforce;
  wire::LaneReply reply;
  const Status s = client->call(wire::Kind::kLane, request, reply, kPatience_ms);
  if (!s.ok()) return s.text();
  return reply.header.result == 0 ? "" : reply.text;
}

}  // namespace

std::string audit_problem(const shm::Dir& dir, const std::string& tenant,
                          const std::string& asked) {
  const auto page = shm::map_node(dir);
  const bool told =
      page.ok() && shm::node_audit(*page->as<const shm::NodePage>(), tenant.c_str()) == kEnforce;
  if (!told && asked != "enforce") return "";
  const std::string why = ask(dir, tenant);
  if (why.empty()) return "";
  return fmt::format(
      "tenant {} runs under audit = enforce, and no daemon takes its entries ({}): start bulkheadd "
      "with [audit]",
      tenant, why);
}

}  // namespace bulkhead::cli
