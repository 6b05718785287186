#include "hook/join.h"

#include <cstring>

#include "hook/audit_mode.h"
#include "hook/compute.h"
#include "hook/gate.h"
#include "hook/grant.h"
#include "hook/node_view.h"
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

Result<wire::Client> connect() noexcept {
  Result<shm::Dir> dir = directory();
  if (!dir.ok()) return dir.status();
  struct stat st {};
  if (!shm::stat_fd(dir->fd.get(), st)) return Status{Errc::kIo, 0, "cannot look at the directory"};
  return wire::Client::connect(dir->fd.get(), st.st_uid, kPatience_ms);
}

}  // namespace

bool DaemonLink::due(std::uint64_t boot_s) noexcept {
  if (boot_s < next_try_s_) return false;
  next_try_s_ = boot_s + (++tries_ < kQuickTries ? 1 : kSlowTry_s);
  return true;
}

Status DaemonLink::join(shm::Seat seat) noexcept {
  Result<wire::Client> client = connect();
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

// The beacons that concern this process, with the daemon's own words about them.
Status DaemonLink::take_beacons() noexcept {
  Result<wire::Client> client = connect();
  if (!client.ok()) return client.status();
  wire::NameRequest request{};
  std::memcpy(request.name, process.tenant.get().name(), sizeof request.name);
  wire::begin(request, wire::Kind::kBeacons, client->next_sequence());
  if (const Status bad = client->send(&request, sizeof request, kPatience_ms); !bad.ok())
    return bad;
  static wire::BeaconsReply reply;  // this thread's own: it is large
  UniqueFd fds[wire::kMaxBeacons];
  unsigned count = 0;
  const auto got =
      client->receive_with(&reply, sizeof reply, wire::Kind::kBeacons, client->sequence(),
                           kPatience_ms, fds, wire::kMaxBeacons, count);
  if (!got.ok()) return got.status();
  if (*got != sizeof reply) return Status{Errc::kUntrusted, 0, "the daemon hands out no beacons"};
  const Held held{process.binding};
  if (process.mode.load(std::memory_order_relaxed) == Mode::kOn)  // under the lock
    gate_set(reply, fds, count);
  return Status{};
}

// A daemon that does not answer is asked as in due().
void DaemonLink::look_for_beacons(std::uint64_t boot_s) noexcept {
  const shm::NodePage* const page = node_page();
  if (page == nullptr) return;
  // acquire pairs with set_node_latency(): the page says the same
  const std::uint32_t epoch = page->latency_epoch.load(std::memory_order_acquire);
  if (epoch != latency_epoch_ && has_beacons_) {
    has_beacons_ = false;
    beacon_tries_ = 0;
    next_beacons_s_ = boot_s;
  }
  if (has_beacons_ || boot_s < next_beacons_s_) return;
  latency_epoch_ = epoch;
  if (epoch == 0 && !ever_asked_) {  // nobody has priority, and nobody had
    has_beacons_ = true;
    return;
  }
  ever_asked_ = true;
  next_beacons_s_ = boot_s + (++beacon_tries_ < kQuickTries ? 1 : kSlowTry_s);
  has_beacons_ = take_beacons().ok();
}

void DaemonLink::second(shm::Seat seat, std::uint64_t boot_s) noexcept {
  shm::Region& r = *process.region;
  // acquire pairs with raise_adopted(): the page is in its place
  const std::uint32_t adopted = r.header.adopted.load(std::memory_order_acquire);
  if (adopted == 0 && node_page() == nullptr) return;
  if (adopted != adopted_) {
    adopted_ = adopted;
    follow_node();
    joined_ = shm::Seat{};  // this daemon has not heard of us
    grant_table_is_old();
    tries_ = 0;
    next_try_s_ = boot_s;
    has_beacons_ = false;  // nor has it handed out any
    beacon_tries_ = 0;
    next_beacons_s_ = boot_s;
  }
  if (boot_s != granted_s_) grant_second(), lanes_second();
  granted_s_ = boot_s;
  const shm::NodePage* const page = node_page();
  if (page != nullptr && boot_s != applied_s_) {  // a poke wakes the thread more often
    applied_s_ = boot_s;
    audit_page(*page);
    compute_look();
    static_cast<void>(shm::apply_page(*page, r, process.tenant.get().device_count(),
                                      process.tenant.get().name()));
  }
  if ((joined_.slot != seat.slot || joined_.gen != seat.gen) && due(boot_s) && join(seat).ok()) {
    joined_ = seat;
    tries_ = 0;
    next_try_s_ = boot_s;
  }
  look_for_beacons(boot_s);
}

}  // namespace bulkhead::hook
