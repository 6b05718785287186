// TenantRegions: the reaper. Invariant D2: a slot is wiped only for the process that died; its pidfd was opened, then
// the slot's pid, start time and generation were read again.
#include <errno.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>

#include "base/kill_point.h"
#include "daemon/pidfd.h"
#include "daemon/regions_inside.h"

namespace bulkhead::daemon {

// A slot that a scan found. Whose it is says the record lock, not the slot: a process of another pid namespace is known by
// its pid here, and a slot with a foreign pid in it names nobody. What has no lock is left to the rule without a daemon.
void TenantRegions::open_watch(const Unwatched& wanted) {
  Tenant* tenant = find(wanted.tenant);
  if (tenant == nullptr || wanted.slot >= tenant->slots.size()) return;
  const Slot& slot = tenant->slots[wanted.slot];
  if (!slot.live || slot.gen != wanted.gen || slot.pidfd.ok()) return;
  const HeldRegion::Owner owner = tenant->region.owner(wanted.slot);
  if (!owner.live || owner.gen != wanted.gen) {
    dirty_.insert(wanted.tenant);
    return;
  }
  const std::uint32_t pid = tenant->region.lock_holder(wanted.slot);
  if (pid == 0 || !may_be(owner, pid)) return;
  UniqueFd pidfd = open_pidfd(pid);
  if (!pidfd.ok()) {
    if (errno == ESRCH) dirty_.insert(wanted.tenant);  // the scan asks for the dead
    return;
  }
  const std::uint64_t start_ticks = start_ticks_of(pid);
  if (tenant->region.owner(wanted.slot) != owner ||
      tenant->region.lock_holder(wanted.slot) != pid) {
    dirty_.insert(wanted.tenant);
    return;
  }
  if (is_ours(owner) && owner.start_ticks != start_ticks) return;
  (void)add_watch(*tenant, wanted.slot, wanted.gen, std::move(pidfd), pid, start_ticks);
}

bool TenantRegions::is_ours(const HeldRegion::Owner& owner) const {
  return pid_namespace_ != 0 && owner.pid_namespace == pid_namespace_;
}

// Whether the slot's words let the process be its owner: of another namespace's pid nothing can be said.
bool TenantRegions::may_be(const HeldRegion::Owner& owner, std::uint32_t pid) const {
  return !is_ours(owner) || owner.pid == pid;
}

Status TenantRegions::watch(const std::string& name, std::uint32_t slot, std::uint32_t generation,
                            UniqueFd pidfd, std::uint32_t pid) {
  Tenant* tenant = find(name);
  if (tenant == nullptr) return Status{Errc::kNotFound, 0, "no such tenant"};
  if (slot >= shm::kMaxSlots || !pidfd.ok()) return Status{Errc::kInvalid, 0, "no such slot"};
  const HeldRegion::Owner owner = tenant->region.owner(slot);
  if (!owner.live || owner.gen != generation || !may_be(owner, pid)) {
    return Status{Errc::kInvalid, 0, "the slot is not this process's"};
  }
  const std::uint32_t holder = tenant->region.lock_holder(slot);
  if (holder != pid && (holder != 0 || !is_ours(owner))) {
    return Status{Errc::kInvalid, 0, "the slot's lock is not this process's"};
  }
  if (tenant->slots.size() <= slot) tenant->slots.resize(slot + 1);
  Slot& at = tenant->slots[slot];
  if (at.live && at.gen == generation && at.pidfd.ok()) return Status{};
  if (at.live && at.gen != generation) slot_gone(*tenant, slot);
  at.live = true;
  at.reaped = false;
  at.gen = generation;
  dirty_.insert(name);
  return add_watch(*tenant, slot, generation, std::move(pidfd), pid, start_ticks_of(pid));
}

Status TenantRegions::add_watch(Tenant& tenant, unsigned index, std::uint32_t gen, UniqueFd pidfd,
                                std::uint32_t pid, std::uint64_t start_ticks) {
  const Status added = outside_.poller->add(
      pidfd.get(), EPOLLIN,
      [this, name = tenant.name, index, gen](std::uint32_t) { ended(name, index, gen); });
  if (!added.ok()) return added;
  Slot& slot = tenant.slots[index];
  slot.pid = pid;
  slot.start_ticks = start_ticks;
  slot.pidfd = std::move(pidfd);
  ++watched_;
  tell(wire::EventKind::kProcessJoined, tenant, "process " + std::to_string(pid) + " joined", pid);
  return Status{};
}

void TenantRegions::drop_watch(Slot& slot) {
  if (!slot.pidfd.ok()) return;
  outside_.poller->remove(slot.pidfd.get());
  slot.pidfd.reset();
  --watched_;
}

void TenantRegions::ended(const std::string& name, unsigned index, std::uint32_t gen) {
  Tenant* tenant = find(name);
  if (tenant == nullptr || index >= tenant->slots.size() || tenant->slots[index].gen != gen) return;
  Slot& slot = tenant->slots[index];
  const std::uint32_t pid = slot.pid;
  drop_watch(slot);
  if (tenant->told_broken) {  // there are no books to wipe, and no scan comes any more
    slot.live = false;
    tell(wire::EventKind::kProcessEnded, *tenant, "it ended; its tenant's region is faulty", pid);
    return;
  }
  dirty_.insert(name);
  std::uint64_t bytes = tenant->region.held_by(index);
  BH_KILL_POINT("daemon.ended");
  if (tenant->region.reap(index, gen) != shm::Reaped::kFreed)
    return;  // the scan tells what became of it
  const std::uint64_t began_ns = outside_.turn_began().mono_ns, now_ns = outside_.clock().mono_ns;
  const std::uint64_t delay_ns = now_ns > began_ns ? now_ns - began_ns : 0;
  BH_KILL_POINT("daemon.reaped");
  bytes -= std::min(bytes, tenant->region.held_by(index));  // what others still hold of its exports
  slot.reaped = true;
  count_reaped(*tenant, bytes);
  reaped_.delay_sum_ns += delay_ns;
  const auto bucket = static_cast<unsigned>(std::bit_width(delay_ns / 1000));
  ++reaped_.delays[std::min(bucket, wire::kDelayBuckets - 1)];
  tell(wire::EventKind::kProcessReaped, *tenant, "ended: its memory is free again", pid, bytes);
}

void TenantRegions::count_reaped(Tenant& tenant, std::uint64_t bytes) {
  ++reaped_.processes;
  reaped_.bytes += bytes;
  ++tenant.view.reaped_processes;
  tenant.view.reaped_bytes += bytes;
}

}  // namespace bulkhead::daemon
