#include "cli/status_audit.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/ask.h"
#include "wire/lines.h"

namespace bulkhead::cli {
namespace {

using nlohmann::json;

std::string refusals_text(const wire::AuditView& v, std::uint64_t& all) {
  std::string out;
  all = 0;
  for (const wire::RefusalCount& r : v.refused) {
    if (r.name[0] == '\0') break;
    all += r.count;
    if (r.count != 0)
      out += fmt::format("{}{} {}", out.empty() ? "" : ", ", wire::text_of(r.name, sizeof r.name),
                         r.count);
  }
  return out;
}

}  // namespace

std::optional<wire::AuditReply> ask_audit(const Machine& machine) {
  std::string problem;
  auto client = connect_daemon(machine, problem);
  if (!client) return std::nullopt;
  std::optional<wire::AuditReply> out;
  wire::Empty request{};
  problem = ask_all(*client, wire::Kind::kAuditState, request, false, [&](const void* message) {
    out = *static_cast<const wire::AuditReply*>(message);
    return true;
  });
  return problem.empty() ? out : std::nullopt;
}

void print_audit(const std::optional<wire::AuditReply>& says) {
  if (!says) return;
  const wire::AuditView& v = says->view;
  if ((v.flags & wire::kAuditOn) != 0) {
    fmt::print("\nAUDIT LOG {}{} entries, {} durable, {} signed, {} behind\n",
               (v.flags & wire::kAuditFailed) != 0 ? "NOT WRITTEN ANY MORE: "
               : (v.flags & wire::kAuditFull) != 0 ? "WITHOUT ROOM: "
                                                   : "",
               v.size, v.durable, v.signed_size, v.size - std::min(v.size, v.durable));
    fmt::print(
        "  since the start: {} entries of {} processes now, {} violations, {} refused, {} gaps\n",
        says->entries, says->sessions, says->violations, says->refused, v.gaps);
    if (v.witnesses != 0)
      fmt::print("  cosigned up to {} ({} of {} witnesses away)\n", v.cosigned, v.witnesses_away,
                 v.witnesses);
  }
  std::uint64_t refused = 0;
  const std::string why = refusals_text(v, refused);
  if (v.grants_accepted + v.grants_living + refused != 0)
    fmt::print("GRANTS {} living, {} expired, {} revoked, {} refused{}\n", v.grants_living,
               v.grants_expired, v.grants_revoked, refused, why.empty() ? "" : " (" + why + ")");
}

json audit_json(const std::optional<wire::AuditReply>& says) {
  if (!says) return nullptr;
  const wire::AuditView& v = says->view;
  json refused = json::object();
  for (const wire::RefusalCount& r : v.refused) {
    if (r.count != 0) refused[std::string{wire::text_of(r.name, sizeof r.name)}] = r.count;
  }
  const json grants = {{"living", v.grants_living},
                       {"accepted", v.grants_accepted},
                       {"expired", v.grants_expired},
                       {"revoked", v.grants_revoked},
                       {"refused", refused}};
  if ((v.flags & wire::kAuditOn) == 0) return {{"on", false}, {"grants", grants}};
  return {{"on", true},
          {"full", (v.flags & wire::kAuditFull) != 0},
          {"failed", (v.flags & wire::kAuditFailed) != 0},
          {"size", v.size},
          {"durable", v.durable},
          {"signed", v.signed_size},
          {"behind", v.size - std::min(v.size, v.durable)},
          {"cosigned", v.cosigned},
          {"witnesses", v.witnesses},
          {"witnesses_away", v.witnesses_away},
          {"segments", v.segments},
          {"packed", v.packed},
          {"removed", v.removed},
          {"clock_steps", v.clock_steps},
          {"entries", says->entries},
          {"violations", says->violations},
          {"waited", says->waited},
          {"refused", says->refused},
          {"unrecorded", says->unrecorded},
          {"gaps", v.gaps},
          {"sessions", says->sessions},
          {"lanes", says->lanes},
          {"grants", grants}};
}

}  // namespace bulkhead::cli
