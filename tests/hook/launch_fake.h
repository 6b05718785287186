// A device whose time the test advances: kernels take what the test says, streams are queues, events are stamped. What
// the driver would not forgive is counted.
#pragma once
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <vector>

#include "base/clock.h"
#include "hook/next.h"

namespace bulkhead::hook::fake {

struct Event {
  std::uint64_t at_ns = 0;
  bool recorded = false;
};

struct Gpu {
  std::mutex lock;
  std::uint64_t now_ns = 1'000'000'000;
  bool live = false;  // true: its time is CLOCK_MONOTONIC
  bool runs = false;  // true: the device's time is advanced by each launch itself
  std::map<CUfunction, std::uint64_t> cost_ns;
  std::map<std::uintptr_t, std::uint64_t> ready_ns;  // by stream handle
  std::map<std::uintptr_t, bool> event_last;         // what was put there last is an event
  int parted = 0;  // dependents that an event kept from a predecessor that had not ended
  std::map<CUfunction, const char*> names;
  std::set<CUevent> events;
  std::set<CUstream> capturing;
  CUcontext context{};             // of all streams
  CUresult answer = CUDA_SUCCESS;  // of launches
  int launches = 0, graphs = 0, records = 0, queries = 0, dead_events = 0, captured_records = 0;
  std::vector<char> log;  // 'e' event, 'k' kernel
};
inline Gpu gpu;

using Lock = std::lock_guard<std::mutex>;

inline std::uint64_t key_of(CUstream s) {
  const auto n = reinterpret_cast<std::uintptr_t>(s);
  return n == 0 ? kStreamLegacy : n;
}
inline void look_at_the_clock() {
  if (gpu.live) gpu.now_ns = monotonic_ns();
}
inline CUresult run_on(CUstream s, std::uint64_t cost, bool dependent = false) {
  const Lock l{gpu.lock};
  look_at_the_clock();
  if (gpu.answer != CUDA_SUCCESS) return gpu.answer;
  std::uint64_t& ready = gpu.ready_ns[key_of(s)];
  bool& event_last = gpu.event_last[key_of(s)];
  if (dependent && event_last && ready > gpu.now_ns) ++gpu.parted;
  event_last = false;
  ready = (ready > gpu.now_ns ? ready : gpu.now_ns) + cost;
  if (gpu.runs) gpu.now_ns = ready;
  ++gpu.launches;
  gpu.log.push_back('k');
  return CUDA_SUCCESS;
}
inline CUresult launch_fn(CUfunction f, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                          unsigned, CUstream s, void**, void**) noexcept {
  return run_on(s, gpu.cost_ns[f]);
}
inline CUresult launch_ex(const CUlaunchConfig* c, CUfunction f, void**, void**) noexcept {
  bool dependent = false;
  for (unsigned i = 0; i < c->numAttrs; ++i)
    dependent =
        dependent || c->attrs[i].id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
  return run_on(c->hStream, gpu.cost_ns[f], dependent);
}
inline CUresult launch_graph(CUgraphExec, CUstream s) noexcept {
  ++gpu.graphs;
  return run_on(s, 1'000'000);
}
inline CUresult event_create(CUevent* e, unsigned) noexcept {
  const Lock l{gpu.lock};
  *e = reinterpret_cast<CUevent>(new Event);
  gpu.events.insert(*e);
  return CUDA_SUCCESS;
}
inline Event* live(CUevent e) {
  if (gpu.events.count(e) != 0) return reinterpret_cast<Event*>(e);
  ++gpu.dead_events;
  return nullptr;
}
inline CUresult event_destroy(CUevent e) noexcept {
  const Lock l{gpu.lock};
  if (Event* const at = live(e)) {
    gpu.events.erase(e);
    delete at;
  }
  return CUDA_SUCCESS;
}
inline CUresult event_record(CUevent e, CUstream s) noexcept {
  const Lock l{gpu.lock};
  Event* const at = live(e);
  if (at == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (gpu.capturing.count(s) != 0) ++gpu.captured_records;
  look_at_the_clock();
  gpu.event_last[key_of(s)] = true;
  const std::uint64_t ready = gpu.ready_ns[key_of(s)];
  *at = {ready > gpu.now_ns ? ready : gpu.now_ns, true};
  ++gpu.records;
  gpu.log.push_back('e');
  return CUDA_SUCCESS;
}
inline CUresult event_query(CUevent e) noexcept {
  const Lock l{gpu.lock};
  ++gpu.queries;
  look_at_the_clock();
  const Event* const at = live(e);
  if (at == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return !at->recorded || gpu.now_ns >= at->at_ns ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}
inline CUresult stream_query(CUstream s) noexcept {
  const Lock l{gpu.lock};
  look_at_the_clock();
  return gpu.now_ns >= gpu.ready_ns[key_of(s)] ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}
inline CUresult event_elapsed(float* ms, CUevent a, CUevent b) noexcept {
  const Lock l{gpu.lock};
  const Event *from = live(a), *to = live(b);
  if (from == nullptr || to == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  look_at_the_clock();
  if (gpu.now_ns < to->at_ns) return CUDA_ERROR_NOT_READY;
  *ms = static_cast<float>(static_cast<double>(to->at_ns - from->at_ns) / 1e6);
  return CUDA_SUCCESS;
}
inline CUresult capture_status(CUstream s, CUstreamCaptureStatus* status) noexcept {
  const Lock l{gpu.lock};
  *status =
      gpu.capturing.count(s) != 0 ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
  return CUDA_SUCCESS;
}
inline CUresult begin_capture(CUstream s, CUstreamCaptureMode) noexcept {
  const Lock l{gpu.lock};
  gpu.capturing.insert(s);
  return CUDA_SUCCESS;
}
inline CUresult end_capture(CUstream s, CUgraph*) noexcept {
  const Lock l{gpu.lock};
  gpu.capturing.erase(s);
  return CUDA_SUCCESS;
}
inline CUresult name_of(const char** name, CUfunction f) noexcept {
  const Lock l{gpu.lock};
  *name = gpu.names.count(f) != 0 ? gpu.names[f] : "gemm";
  return CUDA_SUCCESS;
}

// At once, in a thread of the driver's own, as the driver does it.
CUresult host_function(CUstream, CUhostFn fn, void* data) noexcept;

template <class R, class... A>
void set(Entry<R(A...) noexcept>& entry, R (*fn)(A...) noexcept) {
  entry.set(reinterpret_cast<void*>(fn));
}

inline void install() {
  set(next.cuLaunchKernel, launch_fn);
  set(next.cuLaunchKernelEx, launch_ex);
  set(next.cuGraphLaunch, launch_graph);
  set(next.cuEventCreate, event_create);
  set(next.cuEventDestroy_v2, event_destroy);
  set(next.cuEventRecord, event_record);
  set(next.cuEventQuery, event_query);
  set(next.cuEventElapsedTime, event_elapsed);
  set(next.cuStreamQuery, stream_query);
  set(next.cuStreamIsCapturing, capture_status);
  set(next.cuStreamBeginCapture_v2, begin_capture);
  set(next.cuStreamEndCapture, end_capture);
  set(next.cuFuncGetName, name_of);
  set(next.cuLaunchHostFunc, host_function);
  set(
      next.cuStreamDestroy_v2, +[](CUstream) noexcept { return CUDA_SUCCESS; });
  set(
      next.cuStreamGetCtx, +[](CUstream, CUcontext* c) noexcept {
        return *c = gpu.context, CUDA_SUCCESS;  // in whichever thread it is asked
      });
  set(
      next.cuGraphExecUpdate_v2,
      +[](CUgraphExec, CUgraph, CUgraphExecUpdateResultInfo*) noexcept { return CUDA_SUCCESS; });
}

inline void advance(std::uint64_t ns) {
  const Lock l{gpu.lock};
  gpu.now_ns += ns;
}

}  // namespace bulkhead::hook::fake
