// What a context is set to: limits, flags, preferences, peers. Only the stack limit costs memory at once, as measured;
// the others are remembered.
#include "sim/api.h"
#include "sim/model.h"
#include "sim/work.h"

namespace bulkhead::sim {
namespace {

std::size_t initial(CUlimit limit) noexcept {
  switch (limit) {
    case CU_LIMIT_STACK_SIZE:
      return machine.profile.default_stack_bytes;
    case CU_LIMIT_PRINTF_FIFO_SIZE:
      return 7u << 20;
    case CU_LIMIT_MALLOC_HEAP_SIZE:
      return 8u << 20;
    case CU_LIMIT_MAX_L2_FETCH_GRANULARITY:
      return 64;
    default:
      return 0;
  }
}

bool known(CUlimit limit) noexcept {
  return limit == CU_LIMIT_STACK_SIZE || limit == CU_LIMIT_PRINTF_FIFO_SIZE ||
         limit == CU_LIMIT_MALLOC_HEAP_SIZE || limit == CU_LIMIT_MAX_L2_FETCH_GRANULARITY ||
         limit == CU_LIMIT_PERSISTING_L2_CACHE_SIZE;
}

// The context named, or the current one for nullptr.
CUresult named(CUcontext h, const Call& call, Context*& out) noexcept {
  if (call.result != CUDA_SUCCESS) return call.result;
  out = h == nullptr ? call.context : to_context(h);
  if (out == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  return out->alive ? CUDA_SUCCESS : CUDA_ERROR_CONTEXT_IS_DESTROYED;
}
Need need_for(CUcontext h) noexcept { return h == nullptr ? Need::kContext : Need::kInit; }

template <class T, class Value>
CUresult tell(T* out, Value value) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *out = static_cast<T>(value(*call.context));
  return CUDA_SUCCESS;
}

template <class Do>
CUresult change(Do what) noexcept {
  const Call call{Need::kContext};
  return call.result != CUDA_SUCCESS ? call.result : what(*call.context);
}

CUresult peer(CUcontext h, Context& mine, unsigned& bit) noexcept {
  const Context* other = to_context(h);
  if (other == nullptr || !other->alive) return CUDA_ERROR_INVALID_CONTEXT;
  if (other->ordinal == mine.ordinal) return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
  bit = 1u << other->ordinal;
  return CUDA_SUCCESS;
}

}  // namespace

namespace api {

CUresult cuCtxSetLimit(CUlimit limit, size_t value) noexcept {
  return change([&](Context& c) {
    if (!known(limit)) return CUDA_ERROR_UNSUPPORTED_LIMIT;
    if (limit == CU_LIMIT_STACK_SIZE && !set_stack_limit(c, value)) return CUDA_ERROR_OUT_OF_MEMORY;
    c.limits[limit] = value + 1;  // 0: never set
    return CUDA_SUCCESS;
  });
}
CUresult cuCtxGetLimit(size_t* pvalue, CUlimit limit) noexcept {
  if (!known(limit)) return CUDA_ERROR_UNSUPPORTED_LIMIT;
  return tell(pvalue, [limit](const Context& c) {
    return c.limits[limit] != 0 ? c.limits[limit] - 1 : initial(limit);
  });
}

CUresult cuCtxGetApiVersion(CUcontext ctx, unsigned int* version) noexcept {
  const Call call{need_for(ctx)};
  Context* c = nullptr;
  if (const CUresult r = named(ctx, call, c); r != CUDA_SUCCESS) return r;
  if (version == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *version = c->api_version;
  return CUDA_SUCCESS;
}
CUresult cuCtxGetId(CUcontext ctx, unsigned long long* ctxId) noexcept {
  const Call call{need_for(ctx)};
  Context* c = nullptr;
  if (const CUresult r = named(ctx, call, c); r != CUDA_SUCCESS) return r;
  if (ctxId == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *ctxId = c->id;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetFlags(unsigned int* flags) noexcept {
  return tell(flags, [](const Context& c) { return c.flags; });
}
CUresult cuCtxSetFlags(unsigned int flags) noexcept {
  return change([flags](Context& c) {
    if ((flags & ~static_cast<unsigned>(CU_CTX_FLAGS_MASK)) != 0) return CUDA_ERROR_INVALID_VALUE;
    c.flags = flags;
    return CUDA_SUCCESS;
  });
}
CUresult cuCtxGetCacheConfig(CUfunc_cache* pconfig) noexcept {
  return tell(pconfig, [](const Context& c) { return c.cache_config; });
}
CUresult cuCtxSetCacheConfig(CUfunc_cache config) noexcept {
  return change([config](Context& c) {
    c.cache_config = static_cast<int>(config);
    return CUDA_SUCCESS;
  });
}
CUresult cuCtxGetSharedMemConfig(CUsharedconfig* pConfig) noexcept {
  return tell(pConfig, [](const Context& c) { return c.shared_config; });
}
CUresult cuCtxSetSharedMemConfig(CUsharedconfig config) noexcept {
  return change([config](Context& c) {
    c.shared_config = static_cast<int>(config);
    return CUDA_SUCCESS;
  });
}
CUresult cuCtxResetPersistingL2Cache() noexcept {
  return change([](Context&) { return CUDA_SUCCESS; });
}

// Copies between devices work with and without it: only the answers are modelled.
CUresult cuCtxEnablePeerAccess(CUcontext peerContext, unsigned int Flags) noexcept {
  return change([&](Context& c) {
    unsigned bit = 0;
    if (Flags != 0) return CUDA_ERROR_INVALID_VALUE;
    if (const CUresult r = peer(peerContext, c, bit); r != CUDA_SUCCESS) return r;
    if ((c.peers & bit) != 0) return CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
    c.peers |= bit;
    return CUDA_SUCCESS;
  });
}
CUresult cuCtxDisablePeerAccess(CUcontext peerContext) noexcept {
  return change([&](Context& c) {
    unsigned bit = 0;
    if (const CUresult r = peer(peerContext, c, bit); r != CUDA_SUCCESS) return r;
    if ((c.peers & bit) == 0) return CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
    c.peers &= ~bit;
    return CUDA_SUCCESS;
  });
}

}  // namespace api
}  // namespace bulkhead::sim
