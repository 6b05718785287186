// Events of a whole context: recorded after everything submitted to it, waited for by all of its streams.
#include "sim/api.h"
#include "sim/timed_work.h"
#include "sim/work.h"

namespace bulkhead::sim {
namespace {

// The context a call names: null means the current one.
Context* named(const Call& call, CUcontext h, CUresult& r) noexcept {
  r = call.result;
  if (r != CUDA_SUCCESS) return nullptr;
  Context* c = h == nullptr ? current_context() : to_context(h);
  if (c == nullptr) r = CUDA_ERROR_INVALID_CONTEXT;
  if (c != nullptr && !c->alive) r = CUDA_ERROR_CONTEXT_IS_DESTROYED;
  return r == CUDA_SUCCESS ? c : nullptr;
}

}  // namespace

namespace api {

// What its MPS percentage leaves to it; without MPS every multiprocessor.
CUresult cuCtxGetExecAffinity(CUexecAffinityParam* p, CUexecAffinityType type) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (p == nullptr || type != 0) return CUDA_ERROR_INVALID_VALUE;
  p->type = type;
  p->param.smCount.val = driver().mps.sms;
  return CUDA_SUCCESS;
}

CUresult cuCtxRecordEvent(CUcontext hCtx, CUevent hEvent) noexcept {
  const Call call{Need::kInit};
  CUresult r{};
  Context* c = named(call, hCtx, r);
  if (c == nullptr) return r;
  auto* e = reinterpret_cast<Event*>(hEvent);
  if (!driver().events.contains(e)) return CUDA_ERROR_INVALID_HANDLE;
  if (driver().timed) {  // its first stream waits for the others
    for (Stream* s : driver().streams) {
      if (s->context == c) timed_wait(c->legacy, timed_end_of(*s));
    }
    record_event(*e, c->legacy);
    return CUDA_SUCCESS;
  }
  Stream latest;
  latest.context = c;
  latest.ready_ns = c->legacy.ready_ns;
  for (const Stream* s : driver().streams) {
    if (s->context == c && s->ready_ns > latest.ready_ns) latest.ready_ns = s->ready_ns;
  }
  record_event(*e, latest);
  return CUDA_SUCCESS;
}

CUresult cuCtxWaitEvent(CUcontext hCtx, CUevent hEvent) noexcept {
  const Call call{Need::kInit};
  CUresult r{};
  Context* c = named(call, hCtx, r);
  if (c == nullptr) return r;
  const auto* e = reinterpret_cast<Event*>(hEvent);
  if (!driver().events.contains(const_cast<Event*>(e))) return CUDA_ERROR_INVALID_HANDLE;
  if (!e->recorded) return CUDA_SUCCESS;
  const auto hold = [e](Stream& s) { await_event(s, *e); };
  hold(c->legacy);
  for (Stream* s : driver().streams) {
    if (s->context == c) hold(*s);
  }
  return CUDA_SUCCESS;
}

}  // namespace api
}  // namespace bulkhead::sim
