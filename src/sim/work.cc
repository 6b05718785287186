#include "sim/work.h"

#include "sim/graph.h"

namespace bulkhead::sim {
namespace {

// A callback may call the driver (though it should not) and may wait for other threads that do, so it
// runs without the lock.
template <class F>
void unlocked(F f) noexcept {
  pthread_mutex_unlock(&driver().lock);
  f();
  pthread_mutex_lock(&driver().lock);
}

}  // namespace

CUresult enqueue(Stream& s, Work& w) noexcept {
  if (s.capture.status == CU_STREAM_CAPTURE_STATUS_INVALIDATED) {
    return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  }
  return s.capture.status == CU_STREAM_CAPTURE_STATUS_ACTIVE ? capture(s, w) : perform(s, w);
}

CUresult perform(Stream& s, const Work& w) noexcept {
  std::uint64_t cost_ns = 0;
  EntryKind kind = EntryKind::kWithin;
  CUresult r = CUDA_SUCCESS;
  switch (w.type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
      return perform_kernel(s, w);
    case CU_GRAPH_NODE_TYPE_MEMCPY:
      r = perform_copy(w.copy, cost_ns, kind);
      break;
    case CU_GRAPH_NODE_TYPE_MEMSET:
      r = perform_memset(w.set, cost_ns);
      break;
    case CU_GRAPH_NODE_TYPE_HOST:
      if (w.callback != nullptr) {
        unlocked([&] { w.callback(w.callback_stream, CUDA_SUCCESS, w.data); });
      } else {
        unlocked([&] { w.fn(w.data); });
      }
      break;
    case CU_GRAPH_NODE_TYPE_GRAPH:
      return perform_graph(s, *w.child);
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
      await_event(s, *w.event);
      break;
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
      record_event(*w.event, s);
      break;
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC:
      r = back_graph_memory(w.alloc.dptr);
      break;
    case CU_GRAPH_NODE_TYPE_MEM_FREE:
      free_graph_memory(w.address);
      break;
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP:
      r = perform_ops(w.ops);
      break;
    default:
      break;
  }
  if (r == CUDA_SUCCESS && cost_ns != 0) submit(s, cost_ns, kind);
  return r;
}

}  // namespace bulkhead::sim
