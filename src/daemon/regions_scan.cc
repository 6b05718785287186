// TenantRegions: what is looked at each second, and after a death. All of it in a copy.
#include <fcntl.h>
#include <poll.h>

#include <algorithm>
#include <cstring>

#include "daemon/regions_inside.h"
#include "shm/quota.h"

namespace bulkhead::daemon {
namespace {

constexpr unsigned kPatience =
    3;  // scans with a limit that is not ours, until the region is left alone
constexpr unsigned kMany =
    64;  // unwatched slots: asked for each kRarely-th second only, they cost system calls
constexpr std::uint64_t kRarely = 8;
constexpr std::uint64_t kLongest_ns = 10'000'000'000;  // between scans, for the integrals

constexpr std::uint64_t kDelivered_ns = 900'000'000;  // least time for a delivered share
constexpr std::uint64_t kLost_ns =
    2'000'000'000;  // a process registers again within its next second

bool ended_already(int pidfd) {
  pollfd ready{pidfd, POLLIN, 0};
  return ::poll(&ready, 1, 0) == 1;  // 0 ms: asked, not waited for
}

void read_statistics(const shm::ProcSlot& from, std::uint64_t (&to)[5]) {
  const shm::AtomicU64* const words[] = {&from.allocs, &from.frees, &from.refused, &from.faults,
                                         &from.uncovered};
  for (int i = 0; i < 5; ++i) to[i] = words[i]->load(kRelaxed);
}

}  // namespace

void TenantRegions::broken(Tenant& tenant, const std::string& why) {
  tenant.view.flags |= wire::kViewFaulty;  // no scan takes it back: none comes any more
  if (std::exchange(tenant.told_broken, true)) return;
  tell(wire::EventKind::kTenantFaulty, tenant, "left alone: " + why);
}

void TenantRegions::scan(Tenant& tenant, const Now& now) {
  if (!tenant.told_broken) {
    if (const Status bad = tenant.region.look(scratch_); !bad.ok()) {
      broken(tenant, bad.text());
    } else {
      assert_limits(tenant);
      watch_size(tenant);
    }
  }
  look_at_lost(tenant, now);
  if (!tenant.told_broken) {
    unsigned suspicious = 0;
    scan_slots(tenant, suspicious);
    tenant.read_ns = outside_.clock().mono_ns;  // `now` is the turn's
    add_up(tenant, now);
    if (suspicious > 0 && (suspicious <= kMany || rounds_ % kRarely == 0)) {
      const unsigned reaped = tenant.region.reap_dead();
      tenant.reaped_by_scan += reaped;
      if (reaped > 0) dirty_.insert(tenant.name);  // to tell of them
    }
  }
  static_cast<void>(vanished(tenant));  // last: the tenant may be gone
}

// A file that its owner made longer takes memory of the node that no quota counts. Its books stay good; its new processes are refused, for
// a region has one size. Where that memory is bounded: docs/runbook.md.
void TenantRegions::watch_size(Tenant& tenant) {
  const std::uint64_t excess = tenant.region.excess_bytes();
  if ((excess != 0) == tenant.told_excess) return;
  tenant.told_excess = excess != 0;
  if (excess == 0) {
    tenant.view.flags &= ~std::uint32_t{wire::kViewFaulty};
    return;
  }
  tenant.view.flags |= wire::kViewFaulty;
  tell(wire::EventKind::kTenantFaulty, tenant,
       "its region is " + std::to_string(excess) +
           " bytes longer than a region is; 'bulkhead rm --force " + tenant.name + "' frees them",
       0, excess);
}

// The promise stands in the page and in our memory; the region's word is a copy that its owner can write.
void TenantRegions::assert_limits(Tenant& tenant) {
  bool tampered = false;
  for (unsigned d = 0; d < tenant.limits.size(); ++d) {
    const std::uint64_t have = shm::limit_bytes(scratch_.get(), d);
    const std::uint64_t want = in_units(tenant.limits[d], tenant.region.devices()[d].unit_shift);
    if (have == want) continue;
    if (have > want) {
      tampered = true;
      if (tenant.tampered == 0) {
        tell(wire::EventKind::kLimitTampered, tenant,
             "its limit was raised in its region: set back", 0, have);
      }
    }
    if (!tenant.region.set_limit(d, tenant.limits[d])) broken(tenant, "its file was cut short");
  }
  tampered |= assert_shares(tenant);
  tenant.tampered = tampered ? tenant.tampered + 1 : 0;
  if (tenant.tampered > kPatience) broken(tenant, "its limits are rewritten again and again");
}

// The same for its time. True: the region said more than was promised.
bool TenantRegions::assert_shares(Tenant& tenant) {
  bool tampered = false;
  for (unsigned d = 0; d < tenant.times.size(); ++d) {
    const shm::ComputeRules have = shm::region_compute(scratch_.get(), d);
    const shm::ComputeRules& want = tenant.times[d].rules;
    if (have == want) continue;
    if (shm::lower_of(have, want) != have) {
      if (tenant.tampered == 0 && !tampered) {
        tell(wire::EventKind::kLimitTampered, tenant,
             "its share of the GPU's time was raised in its region: set back");
      }
      tampered = true;
    }
    if (!tenant.region.set_compute(d, want)) broken(tenant, "its file was cut short");
  }
  return tampered;
}

void TenantRegions::scan_slots(Tenant& tenant, unsigned& suspicious) {
  const shm::Region& r = scratch_.get();
  const unsigned high = std::min(r.header.slots_high.load(kRelaxed), shm::kMaxSlots);
  if (tenant.slots.size() < high) tenant.slots.resize(high);
  const auto devices = static_cast<unsigned>(tenant.limits.size());
  bool reaping = false;
  for (unsigned j = 0; j < tenant.slots.size(); ++j) {
    Slot& slot = tenant.slots[j];
    const std::uint64_t s = j < high ? r.slots[j].state.load(kRelaxed) : 0;
    const bool live = shm::state_of(s) == shm::kLive;
    const auto gen = static_cast<std::uint32_t>(shm::gen_of(s));
    if (slot.live && (!live || gen != slot.gen) && shm::state_of(s) != shm::kReaping) {
      slot_gone(tenant, j);
    }
    if (!live) {
      if (shm::state_of(s) != shm::kFree) ++suspicious;
      slot.owed = shm::state_of(s) == shm::kOwing;
      reaping |= shm::state_of(s) == shm::kReaping;
      continue;
    }
    if (!slot.live) {
      slot.live = true;
      slot.reaped = slot.owed = false;
      slot.gen = gen;
      slot.pid = 0;
      const bool foreign = r.slots[j].pid_namespace.load(kRelaxed) != pid_namespace_;
      slot.start_ticks = foreign ? r.slots[j].start_ticks.load(kRelaxed) : 0;
      slot.seen.assign(devices, {});
      slot.told.assign(devices, 0);
      unwatched_.push_back({tenant.name, j, gen});
    } else if (!slot.pidfd.ok()) {
      ++suspicious;
      // out of descriptors then, or a stranger's pid: each few seconds once more
      if (rounds_ % kRarely == 0) unwatched_.push_back({tenant.name, j, gen});
    }
    read_statistics(r.slots[j], slot.statistics);
    slot.booked.resize(devices);
    slot.unseen.resize(devices);
    slot.books.resize(devices);
    slot.seen.resize(devices);
    slot.told.resize(devices);
    for (unsigned d = 0; d < devices; ++d) {
      slot.booked[d] = shm::slot_held_bytes(r, j, d);
      slot.books[d] = HeldRegion::books_in(r, j, d);
      slot.unseen[d] = std::min(r.cells[d][j].unseen_bytes.load(kRelaxed), slot.booked[d]);
    }
  }
  tenant.busy = reaping ? tenant.busy + 1 : 0;
  if (reaping && tenant.busy < 100) dirty_.insert(tenant.name);  // soon again; then each second
}

// A process whose slot is free again, or another's.
void TenantRegions::slot_gone(Tenant& tenant, unsigned index) {
  Slot& slot = tenant.slots[index];
  lose(tenant, index);
  drop_watch(slot);
  slot.live = false;
  for (int i = 0; i < 5; ++i) tenant.past[i] += slot.statistics[i];
  if (std::exchange(slot.reaped, false)) return;
  std::uint64_t bytes = 0;
  for (const std::uint64_t booked : slot.booked) bytes += booked;
  if (tenant.reaped_by_scan > 0) {
    --tenant.reaped_by_scan;
    ++reaped_.by_scan;
    count_reaped(tenant, bytes);
    tell(wire::EventKind::kProcessReaped, tenant, "found dead: its memory is free again", slot.pid,
         bytes);
    return;
  }
  tell(wire::EventKind::kProcessEnded, tenant,
       "it left, or a process of its tenant took its memory back", slot.pid, bytes);
}

// A slot that is free, or another's, though its process lives: its tenant wrote over its region (D5). An exec keeps the
// slot, and an end makes the pidfd readable before anybody can free it.
void TenantRegions::lose(Tenant& tenant, unsigned index) {
  Slot& slot = tenant.slots[index];
  if (slot.reaped || !slot.pidfd.ok() || slot.pid == 0 || ended_already(slot.pidfd.get())) return;
  UniqueFd kept{::fcntl(slot.pidfd.get(), F_DUPFD_CLOEXEC, 0)};
  if (!kept.ok() || tenant.lost.size() >= shm::kMaxSlots) return;
  Lost& lost = tenant.lost.emplace_back();
  lost.slot = index;
  lost.pid = slot.pid;
  lost.start_ticks = slot.start_ticks;
  lost.pidfd = std::move(kept);
  lost.booked = slot.booked;
  lost.unseen = slot.unseen;
  lost.since_ns = outside_.clock().mono_ns;
}

// They end, or register again in another slot; else the tenant is faulty.
void TenantRegions::look_at_lost(Tenant& tenant, const Now& now) {
  std::erase_if(tenant.lost, [&](const Lost& lost) {
    const auto same = [&](const Slot& s) {
      return s.live && s.pid == lost.pid && s.start_ticks == lost.start_ticks;
    };
    return ended_already(lost.pidfd.get()) ||
           std::any_of(tenant.slots.begin(), tenant.slots.end(), same);
  });
  for (Lost& lost : tenant.lost) {
    if (lost.told || now.mono_ns < lost.since_ns + kLost_ns) continue;
    lost.told = true;
    tell(wire::EventKind::kTenantFaulty, tenant,
         "process " + std::to_string(lost.pid) +
             " lives and its slot is not its any more: its books are the last known",
         lost.pid);
  }
}

void TenantRegions::add_up(Tenant& tenant, const Now& now) {
  const shm::Region& r = scratch_.get();
  wire::TenantView& v = tenant.view;
  const std::uint64_t since = tenant.scanned_ns == 0 ? 0 : now.mono_ns - tenant.scanned_ns;
  const std::uint64_t passed_ns =
      now.mono_ns < tenant.scanned_ns ? 0 : std::min(since, kLongest_ns);
  tenant.scanned_ns = now.mono_ns;
  std::memcpy(v.name, tenant.name.c_str(), tenant.name.size() + 1);
  v.owner_uid = tenant.region.uid();
  v.device_count = static_cast<std::uint32_t>(tenant.limits.size());
  v.processes = 0;
  std::uint64_t sums[5];
  std::copy(std::begin(tenant.past), std::end(tenant.past), std::begin(sums));
  for (const Slot& slot : tenant.slots) {
    if (!slot.live) continue;
    v.processes += slot.reaped ? 0 : 1;
    for (int i = 0; i < 5; ++i) sums[i] += slot.statistics[i];
  }
  v.allocs = sums[0], v.frees = sums[1], v.refused = sums[2], v.faults = sums[3],
  v.uncovered = sums[4];
  bool over = false;
  for (unsigned d = 0; d < v.device_count; ++d) {
    wire::DeviceView& to = v.devices[d];
    const auto& device = tenant.region.devices()[d];
    // what was held since the last scan, by its figure then
    to.byte_seconds += to.used_bytes / 1000 * (passed_ns / 1'000'000);
    if (to.used_bytes > 0) to.held_ms += passed_ns / 1'000'000;
    std::memcpy(to.uuid, device.uuid, sizeof to.uuid);
    to.total_bytes = device.total_bytes;
    to.limit_bytes = in_units(tenant.limits[d], device.unit_shift);
    to.used_bytes = to.other_bytes = to.dead_bytes = 0;
    to.processes = 0;
    to.gpu_ms = ~0ull;
    to.share_x100 = wire::kUnknownShare;
    for (unsigned j = 0; j < tenant.slots.size(); ++j) {
      if (tenant.slots[j].owed) to.dead_bytes += shm::slot_held_bytes(r, j, d);
      if (!tenant.slots[j].live || d >= tenant.slots[j].booked.size()) continue;
      const std::uint64_t held = tenant.slots[j].booked[d];
      const bool dead = shm::state_of(r.slots[j].state.load(kRelaxed)) != shm::kLive;
      (dead ? to.dead_bytes : to.used_bytes) += held;
      if (dead) continue;
      to.other_bytes += std::min(r.cells[d][j].other_bytes.load(kRelaxed), held);
      if (held > 0) ++to.processes;
    }
    over |= to.used_bytes > to.limit_bytes;
  }
  add_time(tenant, now);
  const bool wiped = std::any_of(tenant.lost.begin(), tenant.lost.end(),
                                 [](const Lost& lost) { return lost.told; });
  v.flags = (v.flags & wire::kViewAdopted) |
            (wiped || tenant.told_excess ? wire::kViewFaulty : 0u) |
            (tenant.ephemeral ? wire::kViewEphemeral : 0u) |
            ((r.header.flags & shm::kOvercommitted) != 0 ? wire::kViewOvercommitted : 0u) |
            (r.header.on_fault.load(kRelaxed) == shm::kOnFaultOpen ? wire::kViewOpenOnFault : 0u) |
            (over ? wire::kViewOverLimit : 0u);
}

// The sums are the tenant's to write: what falls is taken as having begun anew, so that ours only rise.
void TenantRegions::add_time(Tenant& tenant, const Now& now) {
  const auto rise = [](std::uint64_t& sum, std::uint64_t& seen, std::uint64_t is) {
    if (is > seen) sum += std::min(is - seen, ~sum);
    seen = is;
  };
  for (unsigned d = 0; d < tenant.times.size(); ++d) {
    Tenant::Time& t = tenant.times[d];
    wire::DeviceView& to = tenant.view.devices[d];
    const shm::ComputeSums is = shm::compute_sums(scratch_.get(), d);
    rise(to.used_ns, t.seen.used_ns, is.used_ns);
    rise(to.borrowed_ns, t.seen.borrowed_ns, is.borrowed_ns);
    rise(to.forgiven_ns, t.seen.forgiven_ns, is.forgiven_ns);
    rise(to.held_ns, t.seen.held_ns, is.held_ns);
    rise(to.launches, t.seen.launches, is.launches);
    rise(to.gated_ns, t.seen.gated_ns, is.gated_ns);
    rise(to.gates, t.seen.gates, is.gates);
    for (unsigned i = 0; i < shm::kCopyDirections; ++i)
      rise(to.moved_bytes[i], t.seen.moved_bytes[i], is.moved_bytes[i]);
    to.longest_op_ns = t.seen.longest_op_ns = is.longest_op_ns;
    to.compute_x100 = t.rules.floor_x100;
    to.ceiling_x100 = t.rules.limited() ? t.rules.ceiling_x100 : 0;
    to.rate_x100 = std::min(is.rate_x100, shm::kWholeDevice_x100);
    if (!t.looked || !t.rules.limited()) to.delivered_x100 = wire::kUnknownShare;
    if (t.looked && now.mono_ns < t.base_ns + kDelivered_ns) continue;
    if (t.looked && t.rules.limited()) {
      to.delivered_x100 = shm::delivered_x100(t.base_used_ns, to.used_ns, now.mono_ns - t.base_ns);
    }
    t.looked = true;
    t.base_used_ns = to.used_ns;
    t.base_ns = now.mono_ns;
  }
}

// An ephemeral tenant whose creator and processes are all gone. Of a broken one only what we watch is known.
bool TenantRegions::vanished(Tenant& tenant) {
  if (!tenant.ephemeral) return false;
  for (const Slot& slot : tenant.slots) {
    if (slot.live && (!tenant.told_broken || slot.pidfd.ok())) return false;
  }
  const shm::Identity& c = tenant.creator;
  if (c.pid_namespace == 0 || c.pid_namespace != pid_namespace_ ||
      shm::presence_in_proc(c.pid, c.start_ticks) != shm::Presence::kGone) {
    return false;
  }
  const std::string name = tenant.name;
  const Status done =
      shm::remove_tenant(*outside_.dir, name.c_str(), tenant.told_broken, shm::Patience::kBrief);
  if (!done.ok() && done.code() != Errc::kNotFound) return false;  // somebody joins: later
  forget(name);
  if (on_gone) on_gone(name);
  return true;
}

}  // namespace bulkhead::daemon
