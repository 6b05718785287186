// Contexts: what each takes is `other`, and with a context all that was allocated in it goes.
#include "hook/books.h"
#include "hook/compute.h"
#include "hook/next.h"
#include "hook/probe.h"
#include "hook/shares.h"
#include "hook/stream_sms.h"
#include "hook/transfer.h"

namespace bulkhead::hook {
namespace {

// Of one H200; used until the region holds a measured figure, and corrected by the supervisor.
constexpr std::uint64_t kContextBytes = 543'162'368;

// The primary contexts. 0: not active; else the context, charged.
constinit std::atomic<std::uintptr_t> primary[kMaxDevices]{};
// What keeps it alive beside the parts of stream_sms.cc: the program's references to each, and its green contexts of all devices.
constinit std::atomic<std::uint32_t> retained[kMaxDevices]{};
constinit std::atomic<std::uint32_t> own_greens{0};

std::uint64_t bytes_for(const Device& d, bool first) noexcept {
  const std::uint64_t measured = context_bytes(d, first);
  return measured != 0 ? measured : kContextBytes;
}

bool any_context(std::uint32_t number) noexcept {
  bool found = false;
  books.contexts.for_each([&](std::uint8_t, CUcontext, ContextRecord& r) {
    // relaxed, here and below: written before the context was known to its users
    found = found || (r.device.load(std::memory_order_relaxed) == number + 1 &&
                      r.other_bytes.load(std::memory_order_relaxed) != 0);
  });
  return found;
}

// A context of ours came into being.
void context_made(Device& d, CUcontext ctx, std::uint64_t paid) noexcept {
  ContextRecord& r = books.contexts.record(books.contexts.tag(ctx));
  r.device.store(d.number + 1, std::memory_order_relaxed);
  r.other_bytes.store(paid, std::memory_order_relaxed);
  // relaxed: the handle reaches others through the program
  r.attached.store(0, std::memory_order_relaxed);
  count(Count::kAlloc);
}

// The device lost its last context. Its pools outlive that, with the pointers in them: each stays charged for what the
// driver says it has then. What the driver cannot be asked about (destroyed with live pointers) is let go.
void device_idle(Device& d) noexcept {
  const auto number = static_cast<std::uint8_t>(d.number);
  const auto look = [&](Pool& p) {
    std::uint64_t bytes = 0;
    if (p.device != number) return;
    if (pool_reserved(p, bytes)) {
      pool_shrink(p, d);
    } else {
      pool_drop(p, d);
      if (p.kind != static_cast<std::uint8_t>(PoolKind::kGraph)) books.pools.forget(p);
    }
  };
  books.pools.for_each(look);
  look(books.pools.graph(number));
}

template <class Call>
CUresult create(CUcontext* pctx, CUdevice dev, Call call) noexcept {
  Device* const d = pctx != nullptr ? device(dev) : nullptr;
  if (d == nullptr || !usable()) return call();
  const std::uint64_t bytes = bytes_for(*d, !any_context(d->number));
  leading_begin();
  charge_other(*d, static_cast<std::int64_t>(bytes));  // before: growth of others stops in time
  const CUresult r = call();
  leading_end();
  if (r != CUDA_SUCCESS) {
    charge_other(*d, -static_cast<std::int64_t>(bytes));
    return r;
  }
  BH_PROBE2(context, d->number, bytes);
  context_made(*d, *pctx, bytes);
  return r;
}

// The tag stays with what the context held until memory_context_gone(); the handle is free for a new context. What is
// seen while the driver takes a context down is between two states: it must not lower the books that are lowered here.
struct TakingDown {
  TakingDown() noexcept { leading_begin(); }
  TakingDown(const TakingDown&) = delete;
  TakingDown& operator=(const TakingDown&) = delete;
  ~TakingDown() { leading_end(); }
};
template <class Call>
CUresult destroy(CUcontext ctx, Call call) noexcept {
  const TakingDown here_on;
  const ComputePause no_questions;
  places_changed();  // its memory goes with it
  const std::uint8_t tag = books_ready() ? books.contexts.known(ctx) : 0;
  const bool retired = tag != 0 && books.contexts.retire(tag, ctx);
  const CUresult r = call();
  if (r == CUDA_SUCCESS) compute_context_gone(ctx);
  if (!retired) return r;
  if (r != CUDA_SUCCESS) {
    books.contexts.reopen(tag, ctx);
  } else {
    context_tag_gone(tag);
  }
  return r;
}

bool active(CUdevice dev) noexcept {
  unsigned flags = 0;
  int on = 0;
  return next.cuDevicePrimaryCtxGetState(dev, &flags, &on) == CUDA_SUCCESS && on != 0;
}

// The primary context may have come into being beside us (green contexts retain it).
void primary_seen(Device& d, CUcontext ctx, std::uint64_t paid) noexcept {
  std::uintptr_t none = 0;
  // release pairs with primary_gone()
  if (primary[d.number].compare_exchange_strong(none, reinterpret_cast<std::uintptr_t>(ctx),
                                                std::memory_order_acq_rel)) {
    context_made(d, ctx, paid);
  } else if (paid != 0) {
    charge_other(d, -static_cast<std::int64_t>(paid));  // another thread was first
  }
}

// One reference less; true: it was the last. Of what was never counted there is none to take.
bool drop_one(std::atomic<std::uint32_t>& references) noexcept {
  // relaxed, all of these counts: who sees the last one go ends under locks what others would use
  std::uint32_t n = references.load(std::memory_order_relaxed);
  while (n != 0 && !references.compare_exchange_weak(n, n - 1, std::memory_order_relaxed,
                                                     std::memory_order_relaxed)) {
  }
  return n == 1;
}

// Counted before the driver counts it: another thread's release must not take this one's for the last.
CUresult counted_retain(Device& d, CUcontext* ctx, CUdevice dev) noexcept {
  retained[d.number].fetch_add(1, std::memory_order_relaxed);  // as above
  const CUresult r = next.cuDevicePrimaryCtxRetain(ctx, dev);
  if (r != CUDA_SUCCESS) static_cast<void>(drop_one(retained[d.number]));
  return r;
}

// If the primary context has ended, all of it goes.
void look_at_primary(Device& d) noexcept {
  if (active(d.ordinal)) return;
  // acq_rel pairs with primary_seen(): its record is written, and one of us ends it
  const std::uintptr_t ctx = primary[d.number].exchange(0, std::memory_order_acq_rel);
  if (ctx != 0) memory_context_gone(reinterpret_cast<CUcontext>(ctx));
  stream_parts_gone(d.number);
}

// A release or a reset. The parts go with the program's last reference, or before all of it is reset: theirs would stay.
enum class Ends : std::uint8_t { kRelease, kReset };
template <class Call>
CUresult primary_end(CUdevice dev, Ends how, Call call) noexcept {
  const TakingDown here_on;
  const ComputePause no_questions;
  places_changed();  // its memory goes with it
  Device* const d = device(dev);
  if (d != nullptr && how == Ends::kReset) end_stream_parts(d->number);
  const CUresult r = call();
  if (r != CUDA_SUCCESS || d == nullptr) return r;
  // relaxed: as in drop_one()
  if (how == Ends::kRelease && drop_one(retained[d->number]) &&
      own_greens.load(std::memory_order_relaxed) == 0)
    end_stream_parts(d->number);
  if (books_ready()) look_at_primary(*d);
  return r;
}

}  // namespace

CUcontext primary_context(std::uint32_t number) noexcept {
  // relaxed: an identity
  return reinterpret_cast<CUcontext>(primary[number].load(std::memory_order_relaxed));
}

void forget_primaries() noexcept {
  forget_stream_parts();
  for (auto& p : primary) p.store(0, std::memory_order_relaxed);  // alone after a fork, all three
  for (auto& n : retained) n.store(0, std::memory_order_relaxed);
  own_greens.store(0, std::memory_order_relaxed);
}

// Everything booked under a tag is given back, and what the context itself took.
void context_tag_gone(std::uint8_t tag) noexcept {
  ContextRecord& rec = books.contexts.record(tag);
  books.map.for_each([&](std::uint64_t key, const AllocMap::Cursor& c) {
    const Value v = AllocMap::value_of(c);
    if (v.context != tag || v.kind == Kind::kGraph || v.kind == Kind::kMapping ||
        v.kind == Kind::kVmm || !books.map.take(key, c)) {
      return;
    }
    if (v.kind == Kind::kOpened) return opened_gone(v);
    if (v.kind == Kind::kSmall && any_exports()) {
      static_cast<void>(share_freed(key, kSlabBytes, true));
    }
    if (v.kind == Kind::kExported && share_freed(key, bytes_of(v.units))) return;
    if (v.kind == Kind::kSmallArray) return books.nodes.put(v.units);  // its slab goes below
    if (v.kind == Kind::kSmall) return;                                // same
    Device& device = numbered(v.device);
    if (v.kind == Kind::kManaged) return unified_freed(device, bytes_of(v.units));
    give_back(device, bytes_of(v.units));
  });
  books.slabs.drop_context(tag,
                           [](std::uint8_t number) { give_back(numbered(number), kSlabBytes); });
  int n = 0;
  Device* const all = devices(&n);
  for (int i = 0; i < n; ++i) {
    const std::uint32_t slabs = books.arrays.drop_context(tag, static_cast<std::uint8_t>(i));
    if (slabs != 0) give_back(all[i], slabs * kSlabBytes);
  }
  // relaxed: the context is gone, nobody else changes its record
  const std::uint64_t other = rec.other_bytes.exchange(0, std::memory_order_relaxed);
  // relaxed: written before the context was known
  const std::uint32_t device_plus_1 = rec.device.load(std::memory_order_relaxed);
  books.contexts.forget(tag);
  if (device_plus_1 == 0 || device_plus_1 > static_cast<std::uint32_t>(n)) return;
  Device& d = all[device_plus_1 - 1];
  if (other != 0) charge_other(d, -static_cast<std::int64_t>(other));
  if (!any_context(d.number)) device_idle(d);
}

void memory_context_gone(CUcontext ctx) noexcept {
  compute_context_gone(ctx);
  if (!books_ready()) return;
  for (unsigned i = 0; i < ContextTable::kCount;
       ++i) {  // one tag; more only after a race to make it
    const std::uint8_t tag = books.contexts.known(ctx);
    if (tag == 0) return;
    context_tag_gone(tag);
  }
}

CUresult cuCtxCreate_v2(CUcontext* pctx, unsigned int flags, CUdevice dev) noexcept {
  return create(pctx, dev, [=] { return next.cuCtxCreate_v2(pctx, flags, dev); });
}
CUresult cuCtxCreate(CUcontext* pctx, unsigned int flags, CUdevice dev) noexcept {
  return create(pctx, dev, [=] { return next.cuCtxCreate(pctx, flags, dev); });
}
CUresult cuCtxCreate_v3(CUcontext* pctx, CUexecAffinityParam* paramsArray, int numParams,
                        unsigned int flags, CUdevice dev) noexcept {
  return create(pctx, dev,
                [=] { return next.cuCtxCreate_v3(pctx, paramsArray, numParams, flags, dev); });
}
CUresult cuCtxCreate_v4(CUcontext* pctx, CUctxCreateParams* ctxCreateParams, unsigned int flags,
                        CUdevice dev) noexcept {
  return create(pctx, dev, [=] { return next.cuCtxCreate_v4(pctx, ctxCreateParams, flags, dev); });
}
CUresult cuCtxDestroy_v2(CUcontext ctx) noexcept {
  return destroy(ctx, [=] { return next.cuCtxDestroy_v2(ctx); });
}
CUresult cuCtxDestroy(CUcontext ctx) noexcept {
  return destroy(ctx, [=] { return next.cuCtxDestroy(ctx); });
}

// The usage count of CUDA 2: a context lives until its last detach.
CUresult cuCtxAttach(CUcontext* pctx, unsigned int flags) noexcept {
  const CUresult r = next.cuCtxAttach(pctx, flags);
  if (r == CUDA_SUCCESS && pctx != nullptr && books_ready()) {
    // relaxed: a count, read by the thread that detaches
    books.contexts.record(books.contexts.tag(*pctx))
        .attached.fetch_add(1, std::memory_order_relaxed);
  }
  return r;
}
CUresult cuCtxDetach(CUcontext ctx) noexcept {
  const std::uint8_t tag = books_ready() ? books.contexts.known(ctx) : 0;
  if (tag != 0) {
    std::atomic<std::uint32_t>& attached = books.contexts.record(tag).attached;
    std::uint32_t n = attached.load(std::memory_order_relaxed);  // as above
    if (n != 0) {
      const CUresult r = next.cuCtxDetach(ctx);
      if (r == CUDA_SUCCESS) attached.fetch_sub(1, std::memory_order_relaxed);
      return r;
    }
  }
  return destroy(ctx, [=] { return next.cuCtxDetach(ctx); });
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* pctx, CUdevice dev) noexcept {
  Device* const d = pctx != nullptr ? device(dev) : nullptr;
  if (d == nullptr) return next.cuDevicePrimaryCtxRetain(pctx, dev);
  if (!usable()) return counted_retain(*d, pctx, dev);
  std::uint64_t paid = 0;
  // acquire pairs with primary_seen(): then the record is written
  if (primary[d->number].load(std::memory_order_acquire) == 0) {
    paid = bytes_for(*d, !any_context(d->number));
    leading_begin();
    charge_other(*d, static_cast<std::int64_t>(paid));  // before: growth of others stops in time
  }
  const CUresult r = counted_retain(*d, pctx, dev);
  if (paid != 0) leading_end();
  if (r != CUDA_SUCCESS) {
    if (paid != 0) charge_other(*d, -static_cast<std::int64_t>(paid));
    return r;
  }
  if (paid != 0) {
    BH_PROBE2(context, d->number, paid);
    primary_seen(*d, *pctx, paid);
  }
  return r;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice dev) noexcept {
  return primary_end(dev, Ends::kRelease, [=] { return next.cuDevicePrimaryCtxRelease_v2(dev); });
}
CUresult cuDevicePrimaryCtxRelease(CUdevice dev) noexcept {
  return primary_end(dev, Ends::kRelease, [=] { return next.cuDevicePrimaryCtxRelease(dev); });
}
CUresult cuDevicePrimaryCtxReset_v2(CUdevice dev) noexcept {
  return primary_end(dev, Ends::kReset, [=] { return next.cuDevicePrimaryCtxReset_v2(dev); });
}
CUresult cuDevicePrimaryCtxReset(CUdevice dev) noexcept {
  return primary_end(dev, Ends::kReset, [=] { return next.cuDevicePrimaryCtxReset(dev); });
}

// A green context is a view of the primary one, which it keeps alive; what else it takes was not measured.
CUresult cuGreenCtxCreate(CUgreenCtx* phCtx, CUdevResourceDesc desc, CUdevice dev,
                          unsigned int flags) noexcept {
  const CUresult r = next.cuGreenCtxCreate(phCtx, desc, dev, flags);
  Device* const d = device(dev);
  if (r == CUDA_SUCCESS) own_greens.fetch_add(1, std::memory_order_relaxed);  // as in drop_one()
  if (r != CUDA_SUCCESS || d == nullptr || !usable() ||
      primary[d->number].load(std::memory_order_acquire) != 0) {  // pairs with primary_seen()
    return r;
  }
  // Learn the primary context's handle by retaining it for a moment.
  CUcontext ctx = nullptr;
  if (next.cuDevicePrimaryCtxRetain(&ctx, dev) != CUDA_SUCCESS) return r;
  const std::uint64_t bytes = bytes_for(*d, !any_context(d->number));
  charge_other(*d, static_cast<std::int64_t>(bytes));
  primary_seen(*d, ctx, bytes);
  next.cuDevicePrimaryCtxRelease_v2(dev);
  return r;
}
CUresult cuGreenCtxDestroy(CUgreenCtx hCtx) noexcept {
  const ComputePause no_questions;
  const CUresult r = next.cuGreenCtxDestroy(hCtx);
  if (r != CUDA_SUCCESS) return r;
  const bool last = drop_one(own_greens);
  int n = 0;
  Device* const all = devices(&n);
  for (int i = 0; i < n; ++i) {
    // relaxed, both: as in drop_one(); a look, the exchange decides
    if (last && retained[i].load(std::memory_order_relaxed) == 0) end_stream_parts(all[i].number);
    if (books_ready() && primary[i].load(std::memory_order_relaxed) != 0) look_at_primary(all[i]);
  }
  return r;
}

}  // namespace bulkhead::hook
