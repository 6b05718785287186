// Stream capture: work becomes nodes. A stream joins a capture by waiting on an event recorded in it.
#include <algorithm>

#include "sim/api.h"
#include "sim/graph.h"

namespace bulkhead::sim {
namespace {

constexpr auto kNone = CU_STREAM_CAPTURE_STATUS_NONE;
constexpr auto kActive = CU_STREAM_CAPTURE_STATUS_ACTIVE;
constexpr auto kInvalid = CU_STREAM_CAPTURE_STATUS_INVALIDATED;

// Calls `f` for every stream there is, the default ones too.
template <class F>
void for_streams(F f) noexcept {
  for (Stream* s : driver().streams) f(*s);
  for (Context* c : driver().contexts) {
    for (const auto& [thread, s] : c->per_thread) f(*s);
  }
}

Stream* origin_of(std::uint64_t id) noexcept {
  Stream* found = nullptr;
  for_streams([&](Stream& s) {
    if (s.capture.id == id && s.capture.origin) found = &s;
  });
  return found;
}

CUresult begin(CUstream hStream, CUstreamCaptureMode mode, Graph* into, const CUgraphNode* deps,
               std::size_t n) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  Stream* s = to_stream(hStream, call.context);
  if (s == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (s == &s->context->legacy) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (s->capture.status != kNone) return CUDA_ERROR_ILLEGAL_STATE;
  if (mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
  s->capture = Capture{};
  s->capture.graph = into != nullptr ? into : new_graph();
  s->capture.own_graph = into == nullptr;
  s->capture.status = kActive;
  s->capture.mode = mode;
  s->capture.id = driver().next_id++;
  s->capture.origin = true;
  if (n != 0) s->capture.tail.assign(deps, deps + n);
  if (mode == CU_STREAM_CAPTURE_MODE_GLOBAL) ++driver().global_captures;
  return CUDA_SUCCESS;
}

void end_for_all(std::uint64_t id) noexcept {
  for_streams([id](Stream& s) {
    if (s.capture.id == id) s.capture = Capture{};
  });
}

void invalidate(std::uint64_t id) noexcept {
  for_streams([id](Stream& s) {
    if (s.capture.id == id) s.capture.status = kInvalid;
  });
}

CUresult info(CUstream hStream, CUstreamCaptureStatus* status, cuuint64_t* id, CUgraph* graph,
              const CUgraphNode** deps, std::size_t* n) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Stream* s = to_stream(hStream, call.context);
  if (s == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (status == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Capture& c = s->capture;
  *status = c.status;
  if (c.status != kActive) return CUDA_SUCCESS;
  if (id != nullptr) *id = c.id;
  if (graph != nullptr) *graph = reinterpret_cast<CUgraph>(c.graph);
  if (deps != nullptr) *deps = c.tail.data();
  if (n != nullptr) *n = c.tail.size();
  return CUDA_SUCCESS;
}

CUresult set_tail(CUstream hStream, const CUgraphNode* deps, std::size_t n, unsigned flags) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  Stream* s = to_stream(hStream, call.context);
  if (s == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (s->capture.status != kActive) return CUDA_ERROR_ILLEGAL_STATE;
  if ((n != 0 && deps == nullptr) || flags > CU_STREAM_SET_CAPTURE_DEPENDENCIES) return CUDA_ERROR_INVALID_VALUE;
  if (flags == CU_STREAM_SET_CAPTURE_DEPENDENCIES) s->capture.tail.clear();
  s->capture.tail.insert(s->capture.tail.end(), deps, deps + n);
  return CUDA_SUCCESS;
}

}  // namespace

CUresult refused_by_capture() noexcept {
  if (driver().global_captures == 0 || thread_state().capture_mode == CU_STREAM_CAPTURE_MODE_RELAXED) {
    return CUDA_SUCCESS;
  }
  for_streams([](Stream& s) {
    if (s.capture.status == kActive && s.capture.mode == CU_STREAM_CAPTURE_MODE_GLOBAL) {
      s.capture.status = kInvalid;
    }
  });
  return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

// A wait on a captured event adds no node: the stream (joining, if it was not in the capture) goes on
// after what the event's stream had done.
CUresult capture(Stream& s, Work& w) noexcept {
  Capture& c = s.capture;
  if (w.type == CU_GRAPH_NODE_TYPE_WAIT_EVENT && w.event->capture_id != 0) {
    if (c.status == kNone) {
      const Stream* from = origin_of(w.event->capture_id);
      if (from == nullptr || from->capture.status != kActive) return CUDA_ERROR_CAPTURED_EVENT;
      c = from->capture;
      c.origin = false;
      c.tail.clear();
    }
    if (c.id != w.event->capture_id) return CUDA_ERROR_STREAM_CAPTURE_MERGE;
    for (const CUgraphNode n : w.event->capture_tail) {
      if (std::count(c.tail.begin(), c.tail.end(), n) == 0) c.tail.push_back(n);
    }
    return CUDA_SUCCESS;
  }
  if (w.type == CU_GRAPH_NODE_TYPE_WAIT_EVENT) return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
  CUgraphNode node{};
  const CUresult r = add_node(*c.graph, c.tail.data(), c.tail.size(), w, &node);
  if (r != CUDA_SUCCESS) {
    invalidate(c.id);
    return r;
  }
  c.tail.assign(1, node);
  return CUDA_SUCCESS;
}

CUresult capture_allocation(Stream& s, int ordinal, std::size_t bytes, CUdeviceptr& out) noexcept {
  if (s.capture.status != kActive) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  Work w;
  CUgraphNodeParams p{};
  p.type = CU_GRAPH_NODE_TYPE_MEM_ALLOC;
  p.alloc.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  p.alloc.poolProps.location = {CU_MEM_LOCATION_TYPE_DEVICE, ordinal};
  p.alloc.bytesize = bytes;
  CUresult r = work_from(p, w);
  if (r == CUDA_SUCCESS) r = capture(s, w);
  if (r == CUDA_SUCCESS) out = w.alloc.dptr;
  return r;
}

CUresult capture_free(Stream& s, CUdeviceptr at) noexcept {
  if (s.capture.status != kActive) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  Work w;
  CUgraphNodeParams p{};
  p.type = CU_GRAPH_NODE_TYPE_MEM_FREE;
  p.free.dptr = at;
  const CUresult r = work_from(p, w);
  return r == CUDA_SUCCESS ? capture(s, w) : r;
}

namespace api {

CUresult cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode) noexcept {
  return begin(hStream, mode, nullptr, nullptr, 0);
}
CUresult cuStreamBeginCapture(CUstream hStream) noexcept {
  return begin(hStream, CU_STREAM_CAPTURE_MODE_GLOBAL, nullptr, nullptr, 0);
}
CUresult cuStreamBeginCaptureToGraph(CUstream hStream, CUgraph hGraph, const CUgraphNode* deps,
                                     const CUgraphEdgeData*, size_t n, CUstreamCaptureMode mode) noexcept {
  Graph* g = nullptr;
  {
    const Call call{Need::kInit};
    if (call.result != CUDA_SUCCESS) return call.result;
    g = to_graph(hGraph);
  }
  if (g == nullptr || (n != 0 && deps == nullptr)) return CUDA_ERROR_INVALID_VALUE;
  return begin(hStream, mode, g, deps, n);
}

// Every stream that joined must have been joined back: its last nodes lie before the origin's tail.
CUresult cuStreamEndCapture(CUstream hStream, CUgraph* phGraph) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  Stream* s = to_stream(hStream, call.context);
  if (s == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (phGraph == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const Capture c = s->capture;
  if (c.status == kNone) return CUDA_ERROR_ILLEGAL_STATE;
  if (!c.origin) return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
  CUresult r = c.status == kInvalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
  for_streams([&](const Stream& other) {
    if (&other == s || other.capture.id != c.id || r != CUDA_SUCCESS) return;
    for (const CUgraphNode n : other.capture.tail) {
      const bool joined = std::count(c.tail.begin(), c.tail.end(), n) != 0 ||
                          std::any_of(c.graph->nodes.begin(), c.graph->nodes.end(), [&](const Node* later) {
                            return std::count(later->after.begin(), later->after.end(), to_node(n)) != 0;
                          });
      if (!joined) r = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    }
  });
  if (c.mode == CU_STREAM_CAPTURE_MODE_GLOBAL) --driver().global_captures;
  end_for_all(c.id);
  if (r != CUDA_SUCCESS) {
    if (c.own_graph) delete_graph(c.graph);
    *phGraph = nullptr;
    return r;
  }
  *phGraph = reinterpret_cast<CUgraph>(c.graph);
  return CUDA_SUCCESS;
}

CUresult cuStreamIsCapturing(CUstream hStream, CUstreamCaptureStatus* captureStatus) noexcept {
  return info(hStream, captureStatus, nullptr, nullptr, nullptr, nullptr);
}
CUresult cuStreamGetCaptureInfo(CUstream s, CUstreamCaptureStatus* status, cuuint64_t* id) noexcept {
  return info(s, status, id, nullptr, nullptr, nullptr);
}
CUresult cuStreamGetCaptureInfo_v2(CUstream s, CUstreamCaptureStatus* status, cuuint64_t* id, CUgraph* graph,
                                   const CUgraphNode** deps, size_t* n) noexcept {
  return info(s, status, id, graph, deps, n);
}
CUresult cuStreamGetCaptureInfo_v3(CUstream s, CUstreamCaptureStatus* status, cuuint64_t* id, CUgraph* graph,
                                   const CUgraphNode** deps, const CUgraphEdgeData** edges, size_t* n) noexcept {
  if (edges != nullptr) *edges = nullptr;
  return info(s, status, id, graph, deps, n);
}
CUresult cuStreamUpdateCaptureDependencies(CUstream s, CUgraphNode* deps, size_t n, unsigned int flags) noexcept {
  return set_tail(s, deps, n, flags);
}
CUresult cuStreamUpdateCaptureDependencies_v2(CUstream s, CUgraphNode* deps, const CUgraphEdgeData*, size_t n,
                                              unsigned int flags) noexcept {
  return set_tail(s, deps, n, flags);
}
CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) noexcept {
  if (mode == nullptr || *mode > CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_ERROR_INVALID_VALUE;
  std::swap(*mode, thread_state().capture_mode);
  return CUDA_SUCCESS;
}

}  // namespace api
}  // namespace bulkhead::sim
