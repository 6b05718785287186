// From nothing to a slot: mode(), and what a fork, a lost slot or a fault makes of it.
#include <errno.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "hook/alone.h"
#include "hook/audit_count.h"
#include "hook/audit_mode.h"
#include "hook/books.h"
#include "hook/compute.h"
#include "hook/grant.h"
#include "hook/mode.h"
#include "hook/next.h"
#include "hook/node_view.h"
#include "hook/own_counts.h"
#include "hook/probe.h"
#include "hook/process.h"
#include "hook/resolve.h"
#include "hook/shares.h"
#include "hook/slice.h"
#include "hook/stream_sms.h"
#include "shm/node.h"
#include "shm/quota.h"

namespace bulkhead::hook {

constinit shm::ProcSlot no_slot{};
constinit shm::MemCell no_cell{};
constinit const Place kNowhere = [] {
  Place p{&no_slot, shm::make_s(shm::kLive, 1), {}};
  for (auto& cell : p.cells) cell = &no_cell;
  return p;
}();
constinit Process process{};
thread_local constinit bool inside = false;

namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

// A thread that sleeps in the middle of a call while its process loses its slot this many times reads a place that
// is being written.
constexpr unsigned kPlaces = 64;
constinit Place places[kPlaces]{};
constexpr int kMostRegions =
    3;  // attached at one binding; TenantPlace::put() keeps them all mapped
constinit unsigned next_place = 0;  // under `binding`, or alone after a fork

void set_place(shm::Seat seat) noexcept {
  Process& p = process;
  const Place* at = &kNowhere;
  if (seat.slot < shm::kMaxSlots) {
    Place& made = places[next_place++ % kPlaces];
    made.slot = &p.region->slots[seat.slot];
    made.state = shm::make_s(shm::kLive, seat.gen);
    for (int i = 0; i < kMaxDevices; ++i) {
      const int index = i < p.device_count ? p.devices[i].index : -1;
      made.cells[i] = index < 0 ? &no_cell : &p.region->cells[index][seat.slot];
    }
    const int own = p.devices[kOwnDevice].index;
    const bool same = own >= 0 && shm::own_counts_for(*made.slot, static_cast<unsigned>(own));
    own_copies_of.store(same ? kOwnDevice : ~0u, kRelaxed);  // before the place is known
    at = &made;
  }
  p.place.store(at, std::memory_order_release);  // pairs with place_now()
}

void set_seat(shm::Seat seat) noexcept {
  process.member.seat = seat;
  // relaxed: still_mine() judges it
  process.seat.store(seat.slot | static_cast<std::uint64_t>(seat.gen) << 32, kRelaxed);
  set_place(seat);
}

constexpr Status kNoBooks{Errc::kIo, ENOMEM,
                          "no address space for the books: RLIMIT_AS is too small"};

// The visible devices as the driver numbers them now. False: the driver is not initialised.
bool load_devices() noexcept {
  Process& p = process;
  int count = 0;
  if (next.cuDeviceGetCount(&count) != CUDA_SUCCESS) return false;
  if (count > kMaxDevices) count = kMaxDevices;
  for (int i = 0; i < count; ++i) {
    Device& d = p.devices[i];
    d = Device{i, {}, -1, static_cast<std::uint32_t>(i), nullptr, 0};
    static_cast<void>(next.cuDeviceGet(&d.ordinal, i));
    // _v2 names the MIG instance where there is one; older drivers have only the first
    if (next.cuDeviceGetUuid_v2(&d.uuid, d.ordinal) != CUDA_SUCCESS) {
      static_cast<void>(next.cuDeviceGetUuid(&d.uuid, d.ordinal));
    }
    std::size_t total = 0;
    static_cast<void>(next.cuDeviceTotalMem_v2(&total, d.ordinal));
    p.total_bytes[i] = total;
  }
  p.device_count = count;
  return true;
}

// The tenant that the variables describe, on the devices that are visible.
Status create_from_variables(const shm::Dir& dir) noexcept {
  const Settings& s = settings();
  const Process& p = process;
  shm::TenantSpec spec;
  spec.name = s.tenant;
  spec.owner_uid = ::geteuid();
  spec.ephemeral = true;  // vanishes with its last process, so that old limits never outlive it
  spec.on_fault = s.open_fault ? shm::kOnFaultOpen : shm::kOnFaultDeny;
  for (int i = 0; i < p.device_count; ++i) {
    char text[kUuidText];
    uuid_text(p.devices[i].uuid, text);
    const policy::Size* size = size_asked(s, static_cast<unsigned>(i), text);
    if (size == nullptr) continue;
    shm::DeviceSpec& d = spec.devices[spec.device_count++];
    std::memcpy(d.uuid, p.devices[i].uuid.bytes, sizeof d.uuid);
    d.total_bytes = p.total_bytes[i];
    d.limit_bytes = size_bytes(*size, d.total_bytes);
  }
  shm::Arithmetic sums;
  return shm::create_tenant(dir, spec, sums);
}

// A region made by variables whose processes are all gone holds limits of another day.
bool left_over(shm::Tenant& tenant) noexcept {
  return settings().has_limits && (tenant.region().header.flags & shm::kEphemeral) != 0 &&
         shm::count_live(tenant.region(), tenant.world()) == 0;
}

Status attach(bool may_create) noexcept {
  Process& p = process;
  const bool limits = settings().has_limits;
  Result<shm::Dir> dir = shm::open_dir(shm::dir_options(on_simulator(), limits && may_create));
  if (!dir.ok()) return dir.status();
  Status last{};
  bool swept = false;  // create_tenant() looks at left-overs itself: what exists after it is in use
  // a few times: others create, format and remove the same tenant meanwhile
  for (int i = 0; i < 50; ++i) {
    Result<shm::Tenant> tenant = shm::attach_tenant(*dir, settings().tenant);
    last = tenant.status();
    if (tenant.ok() && (swept || !left_over(*tenant))) {
      const auto granted =
          shm::apply_node(*dir, tenant->region(), tenant->device_count(), settings().tenant);
      if (!granted.ok()) return granted.status();
      p.granted = *granted;
      p.tenant.put(static_cast<shm::Tenant&&>(*tenant));
      return Status{};
    }
    if (tenant.ok()) last = Status{Errc::kNotFound, 0, "only a tenant of another day is there"};
    if (last.code() == Errc::kNotFound && limits && may_create) {
      last = create_from_variables(*dir);
      swept = true;
      if (last.ok() || last.code() == Errc::kExists) continue;
      return last;
    }
    if (last.code() != Errc::kNotReady) return last;
    const timespec pause{0, 1'000'000};
    ::nanosleep(&pause, nullptr);
  }
  return last;
}

// Between the two an ephemeral tenant may vanish with its last process, or be removed: once more then.
Status attach_and_join() noexcept {
  Process& p = process;
  Status last{};
  for (int i = 0; i < kMostRegions && (i == 0 || last.code() == Errc::kNotFound); ++i) {
    if (i > 0 || !p.tenant.ok() || left_over(p.tenant.get())) {
      if (const Status bad = attach(true); !bad.ok()) return bad;
    }
    p.region = &p.tenant.get().region();
    last = shm::join(p.tenant.get(), p.member);
  }
  return last;
}

void match_devices() noexcept {
  Process& p = process;
  for (int i = 0; i < p.device_count; ++i) {
    Device& d = p.devices[i];
    d.index = -1;
    d.entry = nullptr;
    d.compute = nullptr;
    for (unsigned j = 0; j < p.tenant.get().device_count(); ++j) {
      if ((p.granted >> j & 1) == 0) continue;
      const shm::DeviceEntry& entry = p.region->devices[j];
      if (std::memcmp(entry.uuid, d.uuid.bytes, shm::kUuidBytes) != 0) continue;
      d.index = static_cast<int>(j);
      d.entry = &entry;
      d.compute = &p.region->compute[j];
      d.unit_shift = entry.unit_shift & 31;
    }
  }
}

// What this machine's driver was measured to take (calibration.md), before the first allocation.
void take_calibration() noexcept {
  const Process& p = process;
  for (int i = 0; i < p.device_count; ++i) {
    const shm::DeviceEntry* const e = p.devices[i].entry;
    if (e == nullptr) continue;
    // relaxed: constants, published before the tenant's processes started
    set_grain(p.devices[i].number,
              {e->alloc_granularity.load(kRelaxed), e->small_slab_bytes.load(kRelaxed),
               e->array_granularity.load(kRelaxed), e->pool_granularity.load(kRelaxed)});
  }
}

using Statistic = shm::AtomicU64 shm::ProcSlot::*;
constexpr Statistic kStatistics[] = {&shm::ProcSlot::allocs, &shm::ProcSlot::frees,
                                     &shm::ProcSlot::refused, &shm::ProcSlot::faults,
                                     &shm::ProcSlot::uncovered};
constexpr std::pair<Statistic, Statistic> kFirst[] = {
    {&shm::ProcSlot::first_allocs, &shm::ProcSlot::allocs},
    {&shm::ProcSlot::first_frees, &shm::ProcSlot::frees}};

void move_early_counts() noexcept {
  for (const Statistic s : kStatistics) {
    // relaxed: statistics
    (process.place.load(kRelaxed)->slot->*s)
        .fetch_add((no_slot.*s).exchange(0, kRelaxed), kRelaxed);
  }
  for (const auto& [early, s] : kFirst) {
    // relaxed: as above
    (process.place.load(kRelaxed)->slot->*s)
        .fetch_add((no_slot.*early).exchange(0, kRelaxed), kRelaxed);
  }
}

// Only on explicit request (BULKHEAD_LOG=stderr). One write; no stdio, which the program owns.
void say(const Status& why) noexcept {
  char line[256];
  std::size_t at = 0;
  for (const char* part : {"bulkhead: tenant ", settings().tenant, ": ", why.text(), "\n"}) {
    for (; *part != 0 && at < sizeof line; ++part) line[at++] = *part;
  }
  static_cast<void>(!::write(STDERR_FILENO, line, at));
}

void forked_child() noexcept {
  Process& p = process;
  // relaxed throughout: the child has one thread, and its books are empty
  p.mode.store(Mode::kUndecided, kRelaxed);
  set_seat(shm::Seat{});
  p.thread_runs = false;
  p.device_count = 0;
  for (Device& d : p.devices) d.compute = nullptr;
  for (auto& bytes : p.remembered) bytes.store(0, kRelaxed);
  forget_contexts();
  forget_threads();
  forget_counting();
  forget_shares();
  forget_node();
  compute_forked_child();
  audit_forked_child();
  forget_slices();
  grant_forked_child();
  shm::forget_private_locks();
  memory_forked_child();
}

// Under `binding`.
Mode bind_locked() noexcept {
  Process& p = process;
  if (const Mode m = p.mode.load(kRelaxed); m != Mode::kUndecided) return m;  // under the lock
  if (!wanted()) {
    p.mode.store(Mode::kOff, kRelaxed);  // nothing else was written
    return Mode::kOff;
  }
  if (settings().malformed) return fault(kMalformed);
  if (!load_devices()) return Mode::kUndecided;
  if (!p.fork_handler) {
    p.fork_handler = ::pthread_atfork(nullptr, nullptr, forked_child) == 0;
  }
  // Before anything can be charged that the books would have to remember.
  if (!memory_bound()) return fault(kNoBooks);
  if (const Status bad = attach_and_join(); !bad.ok()) return fault(bad);
  match_devices();
  take_calibration();
  set_seat(p.member.seat);
  BH_PROBE2(joined, p.member.seat.slot, p.device_count);
  move_early_counts();
  audit_names_bound();
  measure_partition();
  stream_parts_bound();
  follow_node();
  compute_bound();
  p.mode.store(Mode::kOn, std::memory_order_release);  // pairs with mode()
  if (!p.thread_runs) start_thread();
  return Mode::kOn;
}

[[gnu::cold, gnu::noinline]] Mode bind() noexcept {
  const Undisturbed keep;
  const bool was_inside = inside;
  inside = true;  // what the driver calls from here on is not the program's
  // Before the lock: a library's constructor may wait for it with the loader's lock held.
  if (wanted()) static_cast<void>(resolve_cuda(Load::kYes));
  Mode m = Mode::kUndecided;
  {
    const Held held{process.binding};
    m = bind_locked();
  }
  inside = was_inside;
  return m;
}

}  // namespace

Mode mode() noexcept {
  const Mode m = process.mode.load(std::memory_order_acquire);  // pairs with bind_locked()
  return m != Mode::kUndecided ? m : bind();
}

Status attach_early() noexcept {
  const Undisturbed keep;
  static_cast<void>(resolve_cuda(Load::kNo) || resolve_nvml(Load::kNo));  // for on_simulator()
  const Held held{process.binding};
  if (process.tenant.ok() && !left_over(process.tenant.get())) return Status{};
  return attach(false);
}

const shm::Region* region_to_read() noexcept {
  if (!wanted() || settings().malformed) return nullptr;
  const Mode m = process.mode.load(std::memory_order_acquire);  // pairs with bind_locked()
  if (m == Mode::kOn) return process.region;
  if (m != Mode::kUndecided || !attach_early().ok()) return nullptr;
  return &process.tenant.get().region();
}

Mode fault(const Status& why) noexcept {
  Process& p = process;
  if (settings().log_stderr) say(why);
  bool open = settings().open_fault;
  if (p.tenant.ok()) {
    shm::Region& r = p.tenant.get().region();
    open = r.header.on_fault.load(kRelaxed) == shm::kOnFaultOpen;  // the creator's word
  }
  count(Count::kFault);
  const Mode m = open ? Mode::kOff : Mode::kDenied;
  p.mode.store(m, kRelaxed);  // nothing else is published by it
  BH_PROBE3(fault, static_cast<int>(why.code()), why.error_number(), open ? 1 : 0);
  return m;
}

bool take_new_seat() noexcept {
  const Undisturbed keep;
  Process& p = process;
  const Held held{p.binding};
  if (shm::still_mine(*p.region, seat_now())) return true;  // another thread was first
  if (const Status bad = shm::join(p.tenant.get(), p.member, shm::Joining::kAgain); !bad.ok()) {
    set_place(shm::Seat{});  // the slot may be another's by now: nothing of ours is counted there
    fault(bad);
    return false;
  }
  set_seat(p.member.seat);
  for (int i = 0; i < p.device_count; ++i) {
    const int index = p.devices[i].index;
    if (index < 0) continue;
    const auto dev = static_cast<unsigned>(index);
    const std::uint64_t bytes = p.remembered[i].load(kRelaxed);  // a second old: the best there is
    if (bytes > 0) shm::charge_forced(*p.region, p.member.seat.slot, dev, bytes);
  }
  reseat_shares();
  count(Count::kFault);
  return true;
}

void count(Count what) noexcept {
  shm::count(place_now().slot->*kStatistics[static_cast<int>(what)]);
}

}  // namespace bulkhead::hook
