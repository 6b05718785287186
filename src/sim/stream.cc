// Streams.
#include <new>

#include "sim/api.h"
#include "sim/timed_work.h"
#include "sim/work.h"

namespace bulkhead::sim {
namespace {

// A context's streams take device memory together, in whole granules.
bool charge_streams(Context& c, unsigned count) noexcept {
  const Profile& p = machine.profile;
  const std::uint64_t want =
      c.green_of != nullptr ? 0 : round_up(count * p.stream_bytes, p.granularity_bytes);
  if (want > c.stream_bytes && !take_bytes(c.unit, want - c.stream_bytes)) return false;
  if (want < c.stream_bytes) give(c.unit, c.stream_bytes - want);
  c.stream_bytes = want;
  c.streams = count;
  return true;
}

// The stream of a call, checked; errors in `r`.
Stream* stream_of(const Call& call, CUstream h, CUresult& r) noexcept {
  r = call.result;
  if (r != CUDA_SUCCESS) return nullptr;
  Stream* s = to_stream(h, call.context);
  if (s == nullptr) r = CUDA_ERROR_INVALID_HANDLE;
  return s;
}

template <class T, class F>
CUresult tell(CUstream h, T* out, F f) noexcept {
  const Call call{Need::kContext};
  CUresult r{};
  Stream* s = stream_of(call, h, r);
  if (s == nullptr) return r;
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *out = static_cast<T>(f(*s));
  return CUDA_SUCCESS;
}

}  // namespace

CUresult api::cuStreamCreateWithPriority(CUstream* phStream, unsigned int flags,
                                         int priority) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (phStream == nullptr || flags > CU_STREAM_NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
  if (!charge_streams(*call.context, call.context->streams + 1)) return CUDA_ERROR_OUT_OF_MEMORY;
  auto* s = new (std::nothrow) Stream;
  if (s == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  s->context = call.context;
  s->flags = flags;
  s->priority = priority < -5 ? -5 : priority > 0 ? 0 : priority;
  s->id = driver().next_id++;
  driver().streams.insert(s);
  *phStream = reinterpret_cast<CUstream>(s);
  return CUDA_SUCCESS;
}
CUresult api::cuStreamCreate(CUstream* phStream, unsigned int Flags) noexcept {
  return cuStreamCreateWithPriority(phStream, Flags, 0);
}

CUresult api::cuStreamDestroy_v2(CUstream hStream) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  auto* s = reinterpret_cast<Stream*>(hStream);
  if (!driver().streams.contains(s)) return CUDA_ERROR_INVALID_HANDLE;
  if (s->capture.status != CU_STREAM_CAPTURE_STATUS_NONE)
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  driver().streams.erase(s);
  if (driver().timed) timed_end(*s);
  static_cast<void>(charge_streams(*s->context, s->context->streams - 1));
  delete s;
  return CUDA_SUCCESS;
}
CUresult api::cuStreamDestroy(CUstream hStream) noexcept { return cuStreamDestroy_v2(hStream); }

CUresult api::cuStreamSynchronize(CUstream hStream) noexcept {
  const Call call{Need::kContext};
  CUresult r{};
  const Stream* s = stream_of(call, hStream, r);
  if (s == nullptr) return r;
  if (s->capture.status != CU_STREAM_CAPTURE_STATUS_NONE)
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  // The legacy stream waits for every blocking stream of its context.
  if (s == &s->context->legacy) {
    wait_for_all(s->context);
  } else {
    wait_for(*s);
  }
  at_synchronisation();
  return call.context->sticky;
}

CUresult api::cuStreamQuery(CUstream hStream) noexcept {
  const Call call{Need::kContext};
  CUresult r{};
  const Stream* s = stream_of(call, hStream, r);
  if (s == nullptr) return r;
  if (s->capture.status != CU_STREAM_CAPTURE_STATUS_NONE)
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  return done(*s) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult api::cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int /*Flags*/) noexcept {
  const Call call{Need::kContext};
  CUresult r{};
  Stream* s = stream_of(call, hStream, r);
  if (s == nullptr) return r;
  auto* e = reinterpret_cast<Event*>(hEvent);
  if (!driver().events.contains(e)) return CUDA_ERROR_INVALID_HANDLE;
  Work w;
  w.type = CU_GRAPH_NODE_TYPE_WAIT_EVENT;
  w.event = e;
  if (e->capture_id != 0) return capture(*s, w);  // joins the capture the event belongs to
  return enqueue(*s, w);
}

CUresult api::cuStreamGetPriority(CUstream hStream, int* priority) noexcept {
  return tell(hStream, priority, [](const Stream& s) { return s.priority; });
}
CUresult api::cuStreamGetFlags(CUstream hStream, unsigned int* flags) noexcept {
  return tell(hStream, flags, [](const Stream& s) { return s.flags; });
}
CUresult api::cuStreamGetId(CUstream hStream, unsigned long long* streamId) noexcept {
  return tell(hStream, streamId, [](const Stream& s) { return s.id; });
}
CUresult api::cuStreamGetDevice(CUstream hStream, CUdevice* device) noexcept {
  return tell(hStream, device, [](const Stream& s) { return s.context->ordinal; });
}
CUresult api::cuStreamGetCtx(CUstream hStream, CUcontext* pctx) noexcept {
  return tell(hStream, pctx, [](const Stream& s) { return handle_of(s.context); });
}
CUresult api::cuStreamGetCtx_v2(CUstream hStream, CUcontext* pCtx, CUgreenCtx* pGreenCtx) noexcept {
  if (pGreenCtx != nullptr) *pGreenCtx = nullptr;
  return cuStreamGetCtx(hStream, pCtx);
}
CUresult api::cuStreamGetGreenCtx(CUstream hStream, CUgreenCtx* phCtx) noexcept {
  return tell(hStream, phCtx, [](const Stream&) { return static_cast<CUgreenCtx>(nullptr); });
}

CUresult api::cuCtxGetStreamPriorityRange(int* leastPriority, int* greatestPriority) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (leastPriority != nullptr) *leastPriority = 0;
  if (greatestPriority != nullptr) *greatestPriority = -5;
  return CUDA_SUCCESS;
}

CUresult api::cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void* userData) noexcept {
  const Call call{Need::kContext};
  CUresult r{};
  Stream* s = stream_of(call, hStream, r);
  if (s == nullptr) return r;
  if (fn == nullptr) return CUDA_ERROR_INVALID_VALUE;
  Work w;
  w.type = CU_GRAPH_NODE_TYPE_HOST;
  w.fn = fn;
  w.data = userData;
  return enqueue(*s, w);
}

CUresult api::cuStreamAddCallback(CUstream hStream, CUstreamCallback callback, void* userData,
                                  unsigned int flags) noexcept {
  const Call call{Need::kContext};
  CUresult r{};
  Stream* s = stream_of(call, hStream, r);
  if (s == nullptr) return r;
  if (callback == nullptr || flags != 0) return CUDA_ERROR_INVALID_VALUE;
  if (s->capture.status != CU_STREAM_CAPTURE_STATUS_NONE)
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  Work w;
  w.type = CU_GRAPH_NODE_TYPE_HOST;
  w.callback = callback;
  w.callback_stream = hStream;
  w.data = userData;
  return perform(*s, w);
}

CUresult api::cuStreamAttachMemAsync(CUstream hStream, CUdeviceptr dptr, size_t /*length*/,
                                     unsigned int /*flags*/) noexcept {
  const Call call{Need::kContext};
  CUresult r{};
  if (stream_of(call, hStream, r) == nullptr) return r;
  const Range* range = find_range(dptr);
  return range != nullptr && range->kind == Kind::kManaged ? CUDA_SUCCESS
                                                           : CUDA_ERROR_INVALID_VALUE;
}

}  // namespace bulkhead::sim
