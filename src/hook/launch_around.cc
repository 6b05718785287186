// What a launch has to know of: captures under way, host functions that a stream calls, streams that end.
#include "hook/compute.h"
#include "hook/next.h"
#include "hook/stream_class.h"
#include "hook/thread_launch.h"
#include "hook/transfer_where.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

// Raised before the capture begins, so that no launch of another thread overlooks it.
template <class Call>
CUresult begin_capture(Call call) noexcept {
  captures.fetch_add(1, std::memory_order_acq_rel);  // pairs with compute_begin()
  const CUresult r = call();
  if (r != CUDA_SUCCESS) captures.fetch_sub(1, std::memory_order_acq_rel);  // as above
  return r;
}

// An end may fail and end the capture all the same: the stream tells. One too many in the count costs a question a
// launch; one too few would put events into a capture.
template <class Call>
CUresult end_capture(CUstream stream, Twin twin, Call call) noexcept {
  if (captures.load(kRelaxed) == 0) return call();  // began before this process was looked at
  const bool was = is_capturing(stream, twin);
  const CUresult r = call();
  if (was && !is_capturing(stream, twin)) {
    std::uint32_t n = captures.load(kRelaxed);  // the CAS decides
    // acq_rel pairs with compute_begin()
    while (n != 0 &&
           !captures.compare_exchange_weak(n, n - 1, std::memory_order_acq_rel, kRelaxed)) {
    }
  }
  return r;
}

// A host function on its way: found again by its place, which the driver carries as the program's data. Not for one
// that a graph will call again and again.
struct Callback {
  std::atomic<std::uint32_t> taken{0};
  CUhostFn function = nullptr;
  CUstreamCallback callback = nullptr;
  void* data = nullptr;
};
constexpr unsigned kCallbacks = 256;
constinit Callback callbacks[kCallbacks]{};
constinit std::atomic<std::uint32_t> next_callback{0};

Callback* take_callback() noexcept {
  const std::uint32_t from = next_callback.fetch_add(1, kRelaxed);  // a hint
  for (unsigned i = 0; i < kCallbacks; ++i) {
    Callback& c = callbacks[(from + i) % kCallbacks];
    std::uint32_t free = 0;
    // acquire pairs with drop_callback(): its last use is over
    if (c.taken.compare_exchange_strong(free, 1, std::memory_order_acquire, kRelaxed)) return &c;
  }
  return nullptr;
}
void drop_callback(Callback& c) noexcept {
  c.taken.store(0, std::memory_order_release);  // pairs with take_callback()
}

class InCallback {
 public:
  InCallback() noexcept : was_(thread_launch.in_callback) { thread_launch.in_callback = true; }
  ~InCallback() { thread_launch.in_callback = was_; }
  InCallback(const InCallback&) = delete;
  InCallback& operator=(const InCallback&) = delete;

 private:
  bool was_;
};

// Called by the driver, in a thread of its own; the stream orders it after the writes of take_callback()'s caller.
void run_function(void* place) noexcept {
  Callback& c = *static_cast<Callback*>(place);
  const CUhostFn function = c.function;
  void* const data = c.data;
  drop_callback(c);
  const InCallback mark;
  function(data);
}
void run_callback(CUstream stream, CUresult status, void* place) noexcept {
  Callback& c = *static_cast<Callback*>(place);
  const CUstreamCallback callback = c.callback;
  void* const data = c.data;
  drop_callback(c);
  const InCallback mark;
  callback(stream, status, data);
}

// Only where a launch may be held, and never into a graph.
Callback* mark_callback(const void* function, CUstream stream, Twin twin) noexcept {
  if (!compute_limited() || function == nullptr) return nullptr;
  // acquire pairs with begin_capture()
  if (captures.load(std::memory_order_acquire) != 0 && is_capturing(stream, twin)) return nullptr;
  return take_callback();
}

template <class Call>
CUresult host_function(CUstream stream, Twin twin, CUhostFn fn, void* data, Call call) noexcept {
  Callback* const c = mark_callback(reinterpret_cast<const void*>(fn), stream, twin);
  if (c == nullptr) return call(fn, data);
  c->function = fn;
  c->data = data;
  const CUresult r = call(run_function, c);
  if (r != CUDA_SUCCESS) drop_callback(*c);
  return r;
}
template <class Call>
CUresult stream_callback(CUstream stream, Twin twin, CUstreamCallback fn, void* data,
                         Call call) noexcept {
  Callback* const c = mark_callback(reinterpret_cast<const void*>(fn), stream, twin);
  if (c == nullptr) return call(fn, data);
  c->callback = fn;
  c->data = data;
  const CUresult r = call(run_callback, c);
  if (r != CUDA_SUCCESS) drop_callback(*c);
  return r;
}

}  // namespace

CUresult cuStreamBeginCapture(CUstream hStream) noexcept {
  return begin_capture([=] { return next.cuStreamBeginCapture(hStream); });
}
CUresult cuStreamBeginCapture_ptsz(CUstream hStream) noexcept {
  return begin_capture([=] { return next.cuStreamBeginCapture_ptsz(hStream); });
}
CUresult cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode) noexcept {
  return begin_capture([=] { return next.cuStreamBeginCapture_v2(hStream, mode); });
}
CUresult cuStreamBeginCapture_v2_ptsz(CUstream hStream, CUstreamCaptureMode mode) noexcept {
  return begin_capture([=] { return next.cuStreamBeginCapture_v2_ptsz(hStream, mode); });
}
CUresult cuStreamBeginCaptureToGraph(CUstream hStream, CUgraph hGraph,
                                     const CUgraphNode* dependencies,
                                     const CUgraphEdgeData* dependencyData, size_t numDependencies,
                                     CUstreamCaptureMode mode) noexcept {
  return begin_capture([=] {
    return next.cuStreamBeginCaptureToGraph(hStream, hGraph, dependencies, dependencyData,
                                            numDependencies, mode);
  });
}
CUresult cuStreamBeginCaptureToGraph_ptsz(CUstream hStream, CUgraph hGraph,
                                          const CUgraphNode* dependencies,
                                          const CUgraphEdgeData* dependencyData,
                                          size_t numDependencies,
                                          CUstreamCaptureMode mode) noexcept {
  return begin_capture([=] {
    return next.cuStreamBeginCaptureToGraph_ptsz(hStream, hGraph, dependencies, dependencyData,
                                                 numDependencies, mode);
  });
}
CUresult cuStreamEndCapture(CUstream hStream, CUgraph* phGraph) noexcept {
  return end_capture(hStream, Twin::kPlain,
                     [=] { return next.cuStreamEndCapture(hStream, phGraph); });
}
CUresult cuStreamEndCapture_ptsz(CUstream hStream, CUgraph* phGraph) noexcept {
  return end_capture(hStream, Twin::kPerThread,
                     [=] { return next.cuStreamEndCapture_ptsz(hStream, phGraph); });
}

CUresult cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void* userData) noexcept {
  return host_function(hStream, Twin::kPlain, fn, userData,
                       [=](CUhostFn f, void* d) { return next.cuLaunchHostFunc(hStream, f, d); });
}
CUresult cuLaunchHostFunc_ptsz(CUstream hStream, CUhostFn fn, void* userData) noexcept {
  return host_function(hStream, Twin::kPerThread, fn, userData, [=](CUhostFn f, void* d) {
    return next.cuLaunchHostFunc_ptsz(hStream, f, d);
  });
}
CUresult cuStreamAddCallback(CUstream hStream, CUstreamCallback callback, void* userData,
                             unsigned int flags) noexcept {
  return stream_callback(
      hStream, Twin::kPlain, callback, userData,
      [=](CUstreamCallback f, void* d) { return next.cuStreamAddCallback(hStream, f, d, flags); });
}
CUresult cuStreamAddCallback_ptsz(CUstream hStream, CUstreamCallback callback, void* userData,
                                  unsigned int flags) noexcept {
  return stream_callback(hStream, Twin::kPerThread, callback, userData,
                         [=](CUstreamCallback f, void* d) {
                           return next.cuStreamAddCallback_ptsz(hStream, f, d, flags);
                         });
}

CUresult cuStreamDestroy(CUstream hStream) noexcept {
  if (streams_shaped()) stream_forget(hStream);
  compute_stream_gone(hStream);
  stream_ordinal_gone(hStream);
  return next.cuStreamDestroy(hStream);
}
CUresult cuStreamDestroy_v2(CUstream hStream) noexcept {
  if (streams_shaped()) stream_forget(hStream);
  compute_stream_gone(hStream);
  stream_ordinal_gone(hStream);
  return next.cuStreamDestroy_v2(hStream);
}

}  // namespace bulkhead::hook
