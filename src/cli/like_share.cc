#include "cli/like_share.h"

#include "cli/remote.h"
#include "shm/tenant.h"

namespace bulkhead::cli {
namespace {

bool is_there(const Request& request, const Machine& machine, wire::Client& daemon) {
  if (request.tenant.empty()) return daemon.ok() && !ask_who(daemon).empty();
  return shm::attach_tenant(machine.dir, request.tenant.c_str()).status().code() != Errc::kNotFound;
}

}  // namespace

bool give_memory_like_share(Request& request, const Machine& machine, wire::Client& daemon) {
  const AskedShare& share = request.share;
  if (request.has_memory || !share.has_compute || !share.rules.limited() ||
      is_there(request, machine, daemon))
    return false;
  request.memory = {};
  request.memory.has_every = true;
  request.memory.every.is_percent = true;
  request.memory.every.percent_x100 = share.rules.floor_x100;
  request.memory_from = "--compute";
  request.has_memory = true;
  return true;
}

}  // namespace bulkhead::cli
