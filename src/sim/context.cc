// Contexts: making, destroying, and what is current on a thread.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "sim/api.h"
#include "sim/family.h"
#include "sim/gate.h"
#include "sim/graph.h"
#include "sim/timed_work.h"
#include "sim/work.h"

namespace bulkhead::sim {

// The first context of a process on a device costs more than those that follow.
CUresult make_context(int ordinal, unsigned flags, bool primary, unsigned api,
                      Context*& out) noexcept {
  Device& dev = driver().devices[static_cast<unsigned>(ordinal)];
  if (driver().mps.refused) return CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION;
  const Profile& p = machine.profile;
  const std::uint64_t bytes = dev.contexts == 0 ? p.context_bytes : p.extra_context_bytes;
  const std::uint64_t hidden = dev.contexts == 0 ? p.context_hidden_bytes : 0;
  if (!take_bytes(dev.unit, bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  if (!take_bytes(dev.unit, hidden, Part::kHidden)) {
    give(dev.unit, bytes);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  auto* c = new (std::nothrow) Context;
  auto* slabs = new (std::nothrow) Arena(dev.unit, p.slab_unit_bytes, p.granularity_bytes);
  if (c == nullptr || slabs == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  c->ordinal = ordinal;
  c->unit = dev.unit;
  c->flags = flags;
  c->api_version = api;
  c->primary = primary;
  c->alive = true;
  c->id = driver().next_id++;
  c->charged_bytes = bytes;
  c->slabs = slabs;
  c->legacy.context = c;
  c->legacy.id = driver().next_id++;
  if (driver().timed && !timed_context(*c)) {
    delete slabs;
    delete c;
    give(dev.unit, bytes);
    give(dev.unit, hidden, Part::kHidden);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  driver().contexts.insert(c);
  ++dev.contexts;
  count_context(dev.unit, 1);
  out = c;
  return CUDA_SUCCESS;
}

void destroy_context(Context& c) noexcept {
  if (!c.alive) return;
  std::vector<Context*> greens;  // they live on its resources
  for (Context* other : driver().contexts) {
    if (other->green_of == &c && other->alive) greens.push_back(other);
  }
  for (Context* green : greens) destroy_context(*green);
  if (driver().timed) timed_end(c);
  std::vector<CUdeviceptr> mine;
  for (const auto& [base, r] : driver().ranges) {
    const bool scoped = r.kind != Kind::kMapped && r.kind != Kind::kPool && r.kind != Kind::kGraph;
    if (r.context == &c && scoped) mine.push_back(base);
  }
  for (const CUdeviceptr base : mine) release_range(base);
  delete c.slabs;
  c.slabs = nullptr;
  release_arrays(c);
  release_modules(c);
  std::erase_if(driver().streams, [&](Stream* s) { return s->context == &c; });
  std::erase_if(driver().events, [&](Event* e) { return e->context == &c; });
  give(c.unit, c.charged_bytes + c.stream_bytes + c.local_bytes);
  c.charged_bytes = c.stream_bytes = c.local_bytes = 0;
  c.streams = 0;
  c.alive = false;
  Device& dev = driver().devices[static_cast<unsigned>(c.ordinal)];
  if (c.green_of == nullptr) {
    --dev.contexts;
    count_context(dev.unit, -1);
    // Pools are the device's: they stay, with all that was allocated from them.
    if (dev.contexts == 0) {
      reset_graph_memory(c.ordinal);
      give(dev.unit, machine.profile.context_hidden_bytes, Part::kHidden);
    }
  }
}

namespace {

void pop_if_current(Context* c) noexcept {
  ThreadState& t = thread_state();
  if (t.depth != 0 && t.stack[t.depth - 1] == c) --t.depth;
}

CUresult create(CUcontext* pctx, unsigned flags, CUdevice dev, unsigned api) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (pctx == nullptr || (flags & ~static_cast<unsigned>(CU_CTX_FLAGS_MASK)) != 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (!valid_device(dev)) return CUDA_ERROR_INVALID_DEVICE;
  ThreadState& t = thread_state();
  if (t.depth == kContextDepth) return CUDA_ERROR_INVALID_VALUE;
  Context* c = nullptr;
  const CUresult r = make_context(dev, flags, false, api, c);
  if (r != CUDA_SUCCESS) return r;
  t.stack[t.depth++] = c;
  *pctx = handle_of(c);
  return CUDA_SUCCESS;
}

}  // namespace

CUresult api::cuCtxCreate_v2(CUcontext* pctx, unsigned int flags, CUdevice dev) noexcept {
  return create(pctx, flags, dev, 3020);
}
CUresult api::cuCtxCreate(CUcontext* pctx, unsigned int flags, CUdevice dev) noexcept {
  return create(pctx, flags, dev, 3010);
}
CUresult api::cuCtxCreate_v3(CUcontext* pctx, CUexecAffinityParam* /*paramsArray*/, int numParams,
                             unsigned int flags, CUdevice dev) noexcept {
  // SM affinity exists under MPS only, and is not simulated.
  return numParams != 0 ? CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY : create(pctx, flags, dev, 3020);
}
CUresult api::cuCtxCreate_v4(CUcontext* pctx, CUctxCreateParams* /*ctxCreateParams*/,
                             unsigned int flags, CUdevice dev) noexcept {
  return create(pctx, flags, dev, 3020);
}

CUresult api::cuCtxDestroy_v2(CUcontext ctx) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Context* c = to_context(ctx);
  if (c == nullptr || c->primary) return CUDA_ERROR_INVALID_CONTEXT;
  if (!c->alive) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  if (c->sticky == CUDA_SUCCESS) wait_for_all(c);
  destroy_context(*c);
  pop_if_current(c);
  return CUDA_SUCCESS;
}
CUresult api::cuCtxDestroy(CUcontext ctx) noexcept { return cuCtxDestroy_v2(ctx); }

CUresult api::cuCtxPushCurrent_v2(CUcontext ctx) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Context* c = to_context(ctx);
  if (c == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (!c->alive) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  ThreadState& t = thread_state();
  if (t.depth == kContextDepth) return CUDA_ERROR_INVALID_VALUE;
  t.stack[t.depth++] = c;
  return CUDA_SUCCESS;
}
CUresult api::cuCtxPushCurrent(CUcontext ctx) noexcept { return cuCtxPushCurrent_v2(ctx); }

CUresult api::cuCtxPopCurrent_v2(CUcontext* pctx) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  ThreadState& t = thread_state();
  if (t.depth == 0) return CUDA_ERROR_INVALID_CONTEXT;
  Context* c = t.stack[--t.depth];
  if (pctx != nullptr) *pctx = handle_of(c);
  return CUDA_SUCCESS;
}
CUresult api::cuCtxPopCurrent(CUcontext* pctx) noexcept { return cuCtxPopCurrent_v2(pctx); }

// Replaces the top of the stack; nullptr takes it away.
CUresult api::cuCtxSetCurrent(CUcontext ctx) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  ThreadState& t = thread_state();
  if (ctx == nullptr) {
    if (t.depth != 0) --t.depth;
    return CUDA_SUCCESS;
  }
  Context* c = to_context(ctx);
  if (c == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (!c->alive) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  if (t.depth == 0) t.depth = 1;
  t.stack[t.depth - 1] = c;
  return CUDA_SUCCESS;
}

CUresult api::cuCtxGetCurrent(CUcontext* pctx) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (pctx == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *pctx = handle_of(current_context());
  return CUDA_SUCCESS;
}

CUresult api::cuCtxGetDevice(CUdevice* device) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *device = call.context->ordinal;
  return CUDA_SUCCESS;
}

CUresult api::cuCtxGetDevice_v2(CUdevice* device, CUcontext ctx) noexcept {
  const Call call{ctx == nullptr ? Need::kContext : Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Context* c = ctx == nullptr ? call.context : to_context(ctx);
  if (c == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (device == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *device = c->ordinal;
  return CUDA_SUCCESS;
}

CUresult api::cuCtxSynchronize() noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (const CUresult r = refused_by_capture(); r != CUDA_SUCCESS) return r;
  wait_for_all(call.context);
  at_synchronisation();
  return call.context->sticky;
}

CUresult api::cuCtxSynchronize_v2(CUcontext ctx) noexcept {
  if (ctx == nullptr) return cuCtxSynchronize();
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  Context* c = to_context(ctx);
  if (c == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (!c->alive) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  wait_for_all(c);
  at_synchronisation();
  return c->sticky;
}

// Retired: they shared one context by a count, which the stack of contexts replaced.
CUresult api::cuCtxAttach(CUcontext* pctx, unsigned int /*flags*/) noexcept {
  return cuCtxGetCurrent(pctx);
}
CUresult api::cuCtxDetach(CUcontext ctx) noexcept { return cuCtxDestroy_v2(ctx); }

}  // namespace bulkhead::sim
