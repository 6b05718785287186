// Requests about rollouts of audit modes.
#include "daemon/server.h"
#include "daemon/server_connection.h"
#include "wire/parse.h"

namespace bulkhead::daemon {

void Server::rollout(Connection& c, const wire::RolloutRequest& q, const Now& now) {
  Answer a;
  a.tenant = q.name;
  if (!ledger_.is_operator(c.peer)) {
    a.result = Errc::kUntrusted;
    a.text = "only root and the daemon's own user change a tenant's audit mode";
  } else if (!providers_.rollout) {
    a.result = Errc::kNotReady;
    a.text = "this daemon knows no rollouts";
  } else {
    a = providers_.rollout(c.peer, q);
  }
  answer(c, q.header, a, now);
}

void Server::show_rollout(Connection& c, const wire::NameRequest& q) {
  wire::RolloutReply r{};
  const bool known = ledger_.entries().contains(q.name) && ledger_.may_see(c.peer, q.name);
  if (known && providers_.show_rollout) providers_.show_rollout(q.name, r);
  r.header.magic = wire::kMagic;
  r.header.protocol = wire::kProtocol;
  r.header.kind = static_cast<std::uint16_t>(q.header.kind | wire::kReplyBit);
  r.header.bytes = sizeof r;
  r.header.sequence = q.header.sequence;
  r.header.result = static_cast<std::uint32_t>(known ? Errc::kOk : Errc::kNotFound);
  if (!known) ++counts_.refused;
  put(c, &r, sizeof r);
}

}  // namespace bulkhead::daemon
