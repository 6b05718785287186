// Events. A time is the model's clock when the work before the event is done.
#include <algorithm>
#include <new>

#include "sim/api.h"
#include "sim/timed_work.h"
#include "sim/work.h"

namespace bulkhead::sim {
namespace {

Event* to_event(CUevent h) noexcept {
  auto* e = reinterpret_cast<Event*>(h);
  return driver().events.contains(e) ? e : nullptr;
}

bool finished(const Event& e) noexcept {
  if (!e.recorded) return true;
  if (driver().timed) return timed_done(e.done);
  driver().virtual_ns =
      std::max(driver().virtual_ns, e.at_ns);  // as with streams: asking is waiting
  return true;
}

std::uint64_t time_of(const Event& e) noexcept {
  return driver().timed ? stamp_ns(e.stamp) : e.at_ns;
}

CUresult record(CUevent hEvent, CUstream hStream) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  Event* e = to_event(hEvent);
  Stream* s = to_stream(hStream, call.context);
  if (e == nullptr || s == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (e->context != s->context) return CUDA_ERROR_INVALID_HANDLE;
  if (s->capture.status == CU_STREAM_CAPTURE_STATUS_ACTIVE) {
    e->capture_id = s->capture.id;  // no node: it only carries the dependency to other streams
    e->capture_tail = s->capture.tail;
    return CUDA_SUCCESS;
  }
  record_event(*e, *s);
  return CUDA_SUCCESS;
}

}  // namespace

void record_event(Event& e, Stream& s) noexcept {
  e.recorded = true;
  e.capture_id = 0;
  if (driver().timed) {
    timed_record(e, s);
  } else {
    e.at_ns = std::max(s.ready_ns, driver().virtual_ns);
  }
}

void await_event(Stream& s, const Event& e) noexcept {
  if (!e.recorded) return;
  if (driver().timed) {
    timed_wait(s, e.done);
  } else {
    s.ready_ns = std::max(s.ready_ns, e.at_ns);
  }
}

CUresult api::cuEventCreate(CUevent* phEvent, unsigned int Flags) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (phEvent == nullptr || Flags > 7) return CUDA_ERROR_INVALID_VALUE;
  if ((Flags & CU_EVENT_INTERPROCESS) != 0 && (Flags & CU_EVENT_DISABLE_TIMING) == 0) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  auto* e = new (std::nothrow) Event;
  if (e == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  e->context = call.context;
  e->flags = Flags;
  if (driver().timed && !timed_event(*e)) {
    delete e;
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  driver().events.insert(e);
  *phEvent = reinterpret_cast<CUevent>(e);
  return CUDA_SUCCESS;
}

CUresult api::cuEventDestroy_v2(CUevent hEvent) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  Event* e = to_event(hEvent);
  if (e == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  driver().events.erase(e);
  if (driver().timed) timed_end(*e);
  delete e;
  return CUDA_SUCCESS;
}
CUresult api::cuEventDestroy(CUevent hEvent) noexcept { return cuEventDestroy_v2(hEvent); }

CUresult api::cuEventRecord(CUevent hEvent, CUstream hStream) noexcept {
  return record(hEvent, hStream);
}
CUresult api::cuEventRecordWithFlags(CUevent hEvent, CUstream hStream,
                                     unsigned int flags) noexcept {
  return flags > CU_EVENT_RECORD_EXTERNAL ? CUDA_ERROR_INVALID_VALUE : record(hEvent, hStream);
}

CUresult api::cuEventQuery(CUevent hEvent) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Event* e = to_event(hEvent);
  if (e == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (e->capture_id != 0) return CUDA_ERROR_CAPTURED_EVENT;
  return finished(*e) ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult api::cuEventSynchronize(CUevent hEvent) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Event* e = to_event(hEvent);
  if (e == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (e->capture_id != 0) return CUDA_ERROR_CAPTURED_EVENT;
  if (e->recorded && driver().timed) {
    timed_sleep(e->done);
  } else {
    static_cast<void>(finished(*e));
  }
  at_synchronisation();
  return call.context->sticky;
}

CUresult api::cuEventElapsedTime_v2(float* pMilliseconds, CUevent hStart, CUevent hEnd) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Event *a = to_event(hStart), *b = to_event(hEnd);
  if (a == nullptr || b == nullptr || !a->recorded || !b->recorded)
    return CUDA_ERROR_INVALID_HANDLE;
  if (pMilliseconds == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (((a->flags | b->flags) & CU_EVENT_DISABLE_TIMING) != 0) return CUDA_ERROR_INVALID_HANDLE;
  if (!finished(*a) || !finished(*b)) return CUDA_ERROR_NOT_READY;
  const auto ns = static_cast<std::int64_t>(time_of(*b) - time_of(*a));
  *pMilliseconds = static_cast<float>(static_cast<double>(ns) / 1e6);
  return CUDA_SUCCESS;
}
CUresult api::cuEventElapsedTime(float* pMilliseconds, CUevent hStart, CUevent hEnd) noexcept {
  return cuEventElapsedTime_v2(pMilliseconds, hStart, hEnd);
}

}  // namespace bulkhead::sim
