// The process's own thread: once a second the heartbeat and the record lock, and at once when the
// supervisor has a figure. Started at the binding, so a process that never touches CUDA has none.
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "hook/join.h"
#include "hook/process.h"
#include "hook/shares.h"
#include "shm/quota.h"
#include "shm/supervise.h"
#include "shm/witness.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr std::size_t kStackBytes = 128u << 10;  // static TLS of big programs lies on it too
constinit PrivateLock applying{};

void remember_books(unsigned slot) noexcept {
  Process& p = process;
  for (int i = 0; i < p.device_count; ++i) {
    const int index = p.devices[i].index;
    if (index < 0) continue;
    const auto bytes = shm::slot_held_bytes(*p.region, slot, static_cast<unsigned>(index));
    p.remembered[i].store(bytes, kRelaxed);  // read by take_new_seat(), a second later
  }
}

void* run(void* poked_before) noexcept {
  inside = true;  // nothing this thread does is the program's
  ::prctl(PR_SET_NAME, "bulkhead");
  Process& p = process;
  shm::Witness witness;
  DaemonLink daemon;
  shm::Seat stood{};
  std::uint32_t epoch = 0;
  auto poked = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(poked_before));
  for (;;) {
    const shm::Seat seat = seat_now();
    if (shm::still_mine(*p.region, seat)) {
      if (stood.slot != seat.slot || stood.gen != seat.gen) witness.stand(*p.region, seat.slot);
      stood = seat;
      shm::beat(*p.region, p.member.world, seat);
      remember_books(seat.slot);
      daemon.second(seat, p.member.world.boottime_s(p.member.world.self));
      if (shares_pending()) shares_tick();
    }
    shm::AtomicU32& poke = p.region->slots[seat.slot].poke;
    const timespec second{1, 0};
    ::syscall(SYS_futex, &poke, FUTEX_WAIT, poked, &second, nullptr, 0);
    const std::uint32_t now = poke.load(std::memory_order_acquire);  // pairs with the supervisor
    if (now == poked) continue;
    poked = now;  // also if the slot was lost: the wait must not end at once for ever
    if (!shm::still_mine(*p.region, seat)) continue;
    // A figure taken before a charge_other() of ours does not know of it: it may only raise.
    const std::uint32_t latest = p.other_epoch.load(kRelaxed);
    apply_observed(latest == epoch && p.leading.load(kRelaxed) == 0);  // advice, as other_epoch
    epoch = latest;
  }
  return nullptr;
}

}  // namespace

void apply_observed(bool lower) noexcept {
  Process& p = process;
  const Held held{applying};
  const shm::Seat seat = seat_now();
  for (int i = 0; i < p.device_count; ++i) {
    const int index = p.devices[i].index;
    if (index < 0) continue;
    const auto dev = static_cast<unsigned>(index);
    // relaxed: ordered by poke or sampled; checked: a foreign word moves at most the device
    const std::uint64_t word = p.region->observed[dev][seat.slot].load(kRelaxed);
    const std::uint64_t booked = p.region->cells[dev][seat.slot].other_bytes.load(kRelaxed);
    // of books that are no longer these (a context came or went since): not for us
    const std::int64_t delta = shm::observed_delta(word, booked);
    const std::uint64_t most = p.total_bytes[i] != 0 ? p.total_bytes[i] : ~std::uint64_t{0};
    if (word >> 32 > most / shm::kObservedPage) continue;
    if (delta > 0 || lower) book_other(p.devices[i], delta);
  }
}

bool start_own_thread(void* (*run)(void*), void* argument) noexcept {
  sigset_t all, before;
  sigfillset(&all);
  pthread_attr_t attributes;
  if (::pthread_attr_init(&attributes) != 0) return false;
  ::pthread_attr_setstacksize(&attributes, kStackBytes);
  ::pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);  // the thread inherits it: no signal is ever its
  pthread_t thread;
  const bool runs = ::pthread_create(&thread, &attributes, run, argument) == 0;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ::pthread_attr_destroy(&attributes);
  return runs;
}

// Under process.binding.
void start_thread() noexcept {
  // as it stands at the binding, so that no poke since then is missed
  const std::uintptr_t poked =
      process.region->slots[seat_now().slot].poke.load(std::memory_order_relaxed);
  process.thread_runs = start_own_thread(run, reinterpret_cast<void*>(poked));
  if (!process.thread_runs) count(Count::kFault);
}

}  // namespace bulkhead::hook
