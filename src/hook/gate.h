// The latency gate: docs/compute.md, 'Gate'. A latency tenant's process raises its flag; a batch tenant's looks at the flags of
// others before it launches. Any thread; no heap, no lock; only a hold sleeps. Without a daemon nothing of it ever happens.
//
// The flags lie in pages of other tenants, mapped read-only by the process's own thread. Each has a place of its own in a
// reservation that is made once and never given back, and is replaced by mapping over it; so a pointer into it is always
// good, whatever becomes of the beacon behind it.
#pragma once
#include <atomic>
#include <cstdint>

#include "abi/cuda_types.h"
#include "base/fd.h"
#include "hook/hook.h"
#include "wire/messages.h"

namespace bulkhead::shm {
struct ComputeEntry;
}

namespace bulkhead::hook {

#if defined(BH_HOOK_FAKE)

struct GateWait {
  explicit GateWait(CUstream) noexcept {}
  GateWait() noexcept {}
  CUresult done(CUresult r) const noexcept { return r; }
};

#else

struct GateWords {
  std::atomic<bool> latency{false};      // this process's tenant goes first
  std::atomic<std::uint32_t> beside{0};  // bit of a device: there are latency tenants beside us
};
[[gnu::visibility("hidden")]] extern constinit GateWords latency_gate;

// Whether launches on this device have to look at the gate, and are measured even without a share.
[[nodiscard]] inline bool gate_beside(unsigned device) noexcept {
  // acquire pairs with gate_set(): what is looked at then is there
  return (latency_gate.beside.load(std::memory_order_acquire) >> device & 1) != 0;
}
// On any device; the first look of who goes on to ask for one.
[[nodiscard]] inline bool gate_anywhere() noexcept {
  return latency_gate.beside.load(std::memory_order_relaxed) != 0;  // a hint, as below
}
[[nodiscard]] inline bool gate_active() noexcept {
  // relaxed: two hints; who acts on them acquires
  return latency_gate.latency.load(std::memory_order_relaxed) ||
         latency_gate.beside.load(std::memory_order_relaxed) != 0;
}

// gate.cc. Work begins on the device: our flag is up for a while.
[[gnu::noinline]] void gate_raise_flag(unsigned device, CUstream stream) noexcept;
inline void gate_raise(unsigned device, CUstream stream) noexcept {
  // acquire pairs with gate_set(): our own beacon is mapped
  if (latency_gate.latency.load(std::memory_order_acquire)) [[unlikely]]
    gate_raise_flag(device, stream);
}
// Waits while a flag is up that we believe; returns the time then. kHoldMost_ns at most.
[[nodiscard]] std::uint64_t gate_hold(unsigned device, shm::ComputeEntry& e,
                                      std::uint64_t now) noexcept;
// The work that may be in flight now, beside latency tenants.
[[nodiscard]] std::uint64_t gate_window_ns(unsigned device, std::uint64_t now) noexcept;

// Around a call that waits for a stream (or, without one, for a context): when it returns and nobody launched meanwhile, what
// the flag was up for is done.
class GateWait {
 public:
  explicit GateWait(CUstream stream) noexcept
      : latency_(latency_gate.latency.load(std::memory_order_acquire)) {  // pairs with gate_set()
    if (latency_) [[unlikely]]
      begin(stream, false);
  }
  GateWait() noexcept
      : latency_(latency_gate.latency.load(std::memory_order_acquire)) {  // as above
    if (latency_) [[unlikely]]
      begin(nullptr, true);
  }
  [[nodiscard]] CUresult done(CUresult r) const noexcept {
    if (latency_) [[unlikely]]
      end();
    return r;
  }

 private:
  void begin(CUstream stream, bool all) noexcept;
  void end() const noexcept;
  bool latency_;
  bool covers_ = false;
  std::uint64_t calls_ = 0;
};

// gate_map.cc, by the process's own thread (join.cc), under process.binding. Takes over what the daemon handed out: entry i is of
// fds[i]. Neither own nor others': no gate.
void gate_set(const wire::BeaconsReply& reply, UniqueFd* fds, unsigned count) noexcept;
// In the child of a fork: until it has joined by itself there is no gate.
void gate_forked_child() noexcept;

#endif

}  // namespace bulkhead::hook
