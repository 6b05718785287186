#include "hook/join.h"

#include <sys/mman.h>

#include <cstring>

#include "hook/audit_mode.h"
#include "hook/grant.h"
#include "hook/process.h"
#include "hook/resolve.h"
#include "shm/node.h"
#include "wire/client.h"
#include "wire/messages.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr int kPatience_ms = 200;  // the thread's own time: a heartbeat may be late by it
constexpr unsigned kQuickTries = 5;
constexpr std::uint64_t kSlowTry_s = 60;

Result<shm::Dir> directory() noexcept {
  return shm::open_dir(shm::dir_options(on_simulator(), false));
}

}  // namespace

void DaemonLink::map_page() noexcept {
  page_.reset();
  Result<shm::Dir> dir = directory();
  if (!dir.ok()) return;
  Result<Mapping> map = shm::map_node(*dir);
  if (!map.ok()) return;
  page_ = std::move(*map);
  // a fork's child maps it by itself: this one would stay in it for ever
  ::madvise(page_.as<void>(), page_.bytes(), MADV_DONTFORK);
}

bool DaemonLink::due(std::uint64_t boot_s) noexcept {
  if (boot_s < next_try_s_) return false;
  next_try_s_ = boot_s + (++tries_ < kQuickTries ? 1 : kSlowTry_s);
  return true;
}

Status DaemonLink::join(shm::Seat seat) noexcept {
  Result<shm::Dir> dir = directory();
  if (!dir.ok()) return dir.status();
  struct stat st {};
  if (!shm::stat_fd(dir->fd.get(), st)) return Status{Errc::kIo, 0, "cannot look at the directory"};
  Result<wire::Client> client = wire::Client::connect(dir->fd.get(), st.st_uid, kPatience_ms);
  if (!client.ok()) return client.status();
  const shm::ProcSlot& slot = process.region->slots[seat.slot];
  wire::JoinRequest request{};
  std::memcpy(request.name, process.tenant.get().name(), sizeof request.name);
  request.slot = seat.slot;
  request.generation = seat.gen;
  // relaxed: our own words
  request.pid = slot.pid.load(kRelaxed);
  request.start_ticks = slot.start_ticks.load(kRelaxed);
  request.pid_namespace = slot.pid_namespace.load(kRelaxed);
  wire::Verdict verdict;
  if (const Status bad = client->call(wire::Kind::kJoin, request, verdict, kPatience_ms);
      !bad.ok()) {
    return bad;
  }
  return Status{static_cast<Errc>(verdict.header.result), 0, "the daemon's answer"};
}

void DaemonLink::second(shm::Seat seat, std::uint64_t boot_s) noexcept {
  shm::Region& r = *process.region;
  // acquire pairs with raise_adopted(): the page is in its place
  const std::uint32_t adopted = r.header.adopted.load(std::memory_order_acquire);
  if (adopted == 0) return;
  if (adopted != adopted_) {
    adopted_ = adopted;
    map_page();
    joined_ = shm::Seat{};  // this daemon has not heard of us
    grant_table_is_old();
    tries_ = 0;
    next_try_s_ = boot_s;
  }
  if (boot_s != granted_s_) grant_second();
  granted_s_ = boot_s;
  if (page_.ok() && boot_s != applied_s_) {  // a poke wakes the thread more often
    applied_s_ = boot_s;
    audit_page(*page_.as<const shm::NodePage>());
    static_cast<void>(shm::apply_page(*page_.as<const shm::NodePage>(), r,
                                      process.tenant.get().device_count(),
                                      process.tenant.get().name()));
  }
  if ((joined_.slot == seat.slot && joined_.gen == seat.gen) || !due(boot_s)) return;
  if (join(seat).ok()) {
    joined_ = seat;
    tries_ = 0;
    next_try_s_ = boot_s;
  }
}

}  // namespace bulkhead::hook
