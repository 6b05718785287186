#include "hook/shares.h"

#include "hook/next.h"
#include "hook/process.h"
#include "hook/share_peers.h"
#include "shm/quota.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

// By the index of the region's entry. Under `lock`.
struct Mine {
  std::uint64_t id = 0;  // 0: no record
  std::uint64_t owner_key = 0;
  std::uint64_t paid_bytes = 0;  // charged for it beside the books of allocations
  std::uint64_t block = 0, maker = 0;
  std::uint32_t holds = 0;  // opened by this process
  std::uint8_t dev = 0;     // index in the region
  bool native = false;      // exported by us, and its allocation lives
  bool pays = false;        // we are the payer of something that is not native any more
  bool unseen = false;      // NVML shows what we pay for nobody
};
constinit Mine mine[shm::kMaxShares]{};
constinit unsigned high = 0;                      // records below it may be used
constinit std::atomic<std::uint32_t> exports{0};  // relaxed, both: hints
constinit std::atomic<std::uint32_t> pending{0};
constinit PrivateLock lock{};

shm::Region& region() noexcept { return *process.region; }
shm::ShareRef ref_of(const Mine& m) noexcept { return {static_cast<unsigned>(&m - mine), m.id}; }

void note(const Mine& m, std::int64_t bytes) noexcept {
  int n = 0;
  Device* const all = devices(&n);
  for (int i = 0; i < n; ++i) {
    if (m.unseen && all[i].index == m.dev) return note_unseen(all[i], bytes);
  }
}

void force(Mine& m, std::uint64_t bytes) noexcept {
  m.paid_bytes = bytes;
  if (bytes == 0) return;
  shm::charge_forced(region(), seat_now().slot, m.dev, bytes);
  note(m, static_cast<std::int64_t>(bytes));
}

// The other record that pays for the same memory.
Mine* partner(const Mine& m) noexcept {
  for (unsigned i = 0; i < high && m.block != 0; ++i) {
    Mine& o = mine[i];
    if (&o != &m && o.id != 0 && o.pays && o.block == m.block && o.maker == m.maker) return &o;
  }
  return nullptr;
}

// Pays no more: the bytes go back, or to another record of the same memory. True: they went back.
bool stop_paying(Mine& m) noexcept {
  m.pays = false;
  const std::uint64_t bytes = m.paid_bytes;
  m.paid_bytes = 0;
  if (bytes == 0) return false;
  if (Mine* const other = partner(m)) {
    other->paid_bytes += bytes;
    return false;
  }
  note(m, -static_cast<std::int64_t>(bytes));
  if (shm::still_mine(region(), seat_now())) {
    shm::give_back(region(), seat_now().slot, m.dev, bytes);
  }
  return true;
}

void forget(Mine& m) noexcept { m = Mine{}; }

// What the payer can do about one record. True: bytes went back.
bool look_as_payer(Mine& m) noexcept {
  shm::ShareFacts f;
  if (!shm::read_share(region(), ref_of(m), f) || f.payer != shm::share_seat(seat_now())) {
    return stop_paying(m);
  }
  if (m.holds != 0) {
    shm::use_share(region(), ref_of(m), seat_now());
    return false;
  }
  const auto closed = shm::close_share(region(), process.member.world, seat_now(), ref_of(m));
  return closed != shm::Closed::kHeld && stop_paying(m);
}

// Charge first, then the payer: sharing.md, S1.
void take_over(Mine& m) noexcept {
  shm::ShareFacts f;
  if (!shm::takeable(region(), ref_of(m), seat_now()) || !shm::read_share(region(), ref_of(m), f)) {
    return;
  }
  m.unseen = f.kind != ShareKind::kIpc;  // NVML shows a legacy handle's memory for the importer
  m.dev = static_cast<std::uint8_t>(f.device);
  force(m, partner(m) == nullptr && f.bytes >> 48 == 0 ? f.bytes : 0);
  m.pays = true;
  if (!shm::take_share(region(), ref_of(m), seat_now())) stop_paying(m);
}

bool payer_died(const Mine& m) noexcept {
  shm::ShareFacts f;
  if (!shm::read_share(region(), ref_of(m), f) || (f.payer & 0xfff) >= shm::kMaxSlots) return false;
  // acquire: the kernel's mark, as in slots.cc
  const auto witness = region().slots[f.payer & 0xfff].witness.load(std::memory_order_acquire);
  return (witness & FUTEX_OWNER_DIED) != 0;
}

bool tick_locked() noexcept {
  bool came = false, dead = false, took = false;
  unsigned left = 0;
  for (unsigned i = 0; i < high; ++i) {
    if (mine[i].id != 0 && mine[i].holds != 0 && !mine[i].pays) dead |= payer_died(mine[i]);
  }
  if (dead) shm::reap_dead(region(), process.member.world, seat_now());
  for (unsigned i = 0; i < high; ++i) {
    Mine& m = mine[i];
    if (m.id == 0) continue;
    if (m.pays) came |= look_as_payer(m);
    if (!m.pays && m.holds != 0 && !m.native) take_over(m);
    took |= m.pays;
    if (m.holds == 0 && !m.pays && !m.native) forget(m);
    left += m.pays || m.holds != 0;
  }
  // what the dead owed is lowered by what was taken over
  if (took) shm::reap_dead(region(), process.member.world, seat_now());
  pending.store(left, kRelaxed);  // a hint
  return came;
}

Mine& record(shm::ShareRef ref) noexcept {
  Mine& m = mine[ref.index];
  if (m.id != ref.id) {
    if (m.pays) stop_paying(m);  // the entry is gone: whoever closed it found no holder
    forget(m);
    m.id = ref.id;
    if (high <= ref.index) high = ref.index + 1;
  }
  return m;
}

bool bound() noexcept { return mode() == Mode::kOn && shm::still_mine(region(), seat_now()); }

void enter(ShareKind kind, shm::ShareKey key, std::uint64_t owner_key, Device* d,
           std::uint64_t bytes, std::uint64_t block) noexcept {
  const Held held{lock};
  if (!bound()) return;
  const shm::Seat seat = seat_now();
  shm::ShareFacts f;
  const shm::ShareRef known = shm::find_share(region(), kind, key);
  if (known && shm::read_share(region(), known, f) && f.maker == shm::share_seat(seat)) return;
  const bool charged = d != nullptr && d->index >= 0;
  const auto dev = charged ? static_cast<unsigned>(d->index) : 0;
  const shm::ShareRef ref =
      shm::publish_share(region(), seat, kind, dev, charged ? bytes : 0, block, key);
  if (!ref) return;
  Mine& m = record(ref);
  m.owner_key = owner_key;
  m.block = block;
  m.maker = shm::share_seat(seat);
  m.dev = static_cast<std::uint8_t>(dev);
  m.native = true;
  exports.fetch_add(1, kRelaxed);  // a hint
}

bool open(ShareKind kind, const shm::ShareKey* key, Import& out) noexcept {
  const Held held{lock};
  out = {};
  if (!bound()) return true;  // not ours to judge; a denied process has no driver
  const shm::ShareRef ref =
      key != nullptr ? shm::find_share(region(), kind, *key) : shm::ShareRef{};
  shm::ShareFacts f;
  if (ref && shm::hold_share(region(), seat_now().slot, ref) && shm::read_share(region(), ref, f)) {
    Mine& m = record(ref);
    ++m.holds;
    m.block = f.block;
    m.maker = f.maker;
    m.dev = static_cast<std::uint8_t>(f.device);
    pending.fetch_add(1, kRelaxed);  // a hint
    out = {ref.index, ref.id};
    return true;
  }
  if (key != nullptr && peer_exports(kind, *key)) return true;
  // relaxed: statistics
  if (region().header.exports_lost.load(kRelaxed) != 0) {
    shm::count(region().header.imports_unknown);
    return true;
  }
  shm::count(region().header.imports_refused);
  return false;
}

}  // namespace

bool any_exports() noexcept { return exports.load(kRelaxed) != 0; }     // a hint
bool shares_pending() noexcept { return pending.load(kRelaxed) != 0; }  // a hint

void share_exported(ShareKind kind, const void* bytes64, std::uint64_t owner_key, Device* d,
                    std::uint64_t bytes, std::uint64_t block) noexcept {
  const Undisturbed keep;
  enter(kind, shm::share_key_of(bytes64), owner_key, d, bytes, block);
}

void share_exported_fd(ShareKind kind, int fd, std::uint64_t owner_key, Device* d,
                       std::uint64_t bytes, std::uint64_t block) noexcept {
  const Undisturbed keep;
  shm::ShareKey mark;
  if (shm::read_mark(fd, mark) || (shm::new_mark(mark) && shm::put_mark(fd, mark))) {
    enter(kind, mark, owner_key, d, bytes, block);
  } else if (mode() == Mode::kOn) {
    shm::count(region().header.exports_lost);
  }
}

bool share_open(ShareKind kind, const void* bytes64, Import& out) noexcept {
  const Undisturbed keep;
  const shm::ShareKey key = shm::share_key_of(bytes64);
  return open(kind, &key, out);
}

bool share_open_fd(ShareKind kind, int fd, Import& out) noexcept {
  const Undisturbed keep;
  shm::ShareKey mark;
  return open(kind, shm::read_mark(fd, mark) ? &mark : nullptr, out);
}

void share_closed(const Import& import) noexcept {
  if (!import || import.index >= shm::kMaxShares) return;
  const Undisturbed keep;
  const Held held{lock};
  Mine& m = mine[import.index];
  if (m.id != import.id || m.holds == 0 || --m.holds != 0) return;
  shm::unhold_share(region(), seat_now().slot, ref_of(m));
  if (m.pays) look_as_payer(m);
  if (!m.pays && !m.native) forget(m);
}

Import import_at(std::uint32_t index) noexcept {
  const Held held{lock};
  return index < shm::kMaxShares && mine[index].holds != 0 ? Import{index, mine[index].id}
                                                           : Import{};
}

bool share_freed(std::uint64_t owner_key, std::uint64_t bytes, bool separate) noexcept {
  if (!any_exports()) return false;
  const Undisturbed keep;
  const Held held{lock};
  Mine* payer = nullptr;
  for (unsigned i = 0; i < high; ++i) {
    Mine& m = mine[i];
    if (m.id == 0 || !m.native || m.owner_key != owner_key) continue;
    m.native = false;
    exports.fetch_sub(1, kRelaxed);  // a hint
    const auto closed = shm::close_share(region(), process.member.world, seat_now(), ref_of(m));
    if (closed != shm::Closed::kHeld) {
      if (m.holds == 0) forget(m);
      continue;
    }
    m.pays = true;
    m.unseen = true;                 // of a legacy handle NVML now shows it for the importer
    pending.fetch_add(1, kRelaxed);  // a hint
    if (separate) {
      force(m, partner(m) == nullptr ? bytes : 0);
    } else if (payer == nullptr) {
      payer = &m;
      m.paid_bytes = bytes;
      note(m, static_cast<std::int64_t>(bytes));
    }
  }
  return payer != nullptr;
}

bool shares_tick() noexcept {
  const Undisturbed keep;
  const Held held{lock};
  return process.mode.load(std::memory_order_acquire) == Mode::kOn &&  // pairs with bind_locked()
         shm::still_mine(region(), seat_now()) && tick_locked();
}

void forget_shares() noexcept {
  for (unsigned i = 0; i < high; ++i) forget(mine[i]);  // alone after a fork
  high = 0;
  exports.store(0, kRelaxed);  // as above
  pending.store(0, kRelaxed);
}

// Under process.binding. The bits of the old slot were cleared; what was charged is charged again by the caller.
void reseat_shares() noexcept {
  const Held held{lock};
  for (unsigned i = 0; i < high; ++i) {
    Mine& m = mine[i];
    if (m.id == 0) continue;
    m.native = false;
    if (m.holds != 0 && !shm::hold_share(region(), seat_now().slot, ref_of(m))) m.holds = 0;
  }
}

}  // namespace bulkhead::hook
