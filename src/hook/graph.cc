// Graph memory nodes. An executable graph with allocation nodes takes its memory when it is uploaded or first
// launched, from the device's graph memory, which keeps it until it is trimmed. docs/formats/charge.md.
#include "hook/books.h"
#include "hook/compute.h"
#include "hook/compute_quick_way.h"
#include "hook/next.h"
#include "hook/node_list.h"
#include "hook/transfer.h"

namespace bulkhead::hook {
namespace {

struct Sums {
  std::uint64_t bytes[kMaxDevices] = {};
  bool unsure = false;  // the driver did not let us look
};

void add_nodes(CUgraph graph, Sums& sums, int depth) noexcept;

void add_node(CUgraphNode node, Sums& sums, int depth) noexcept {
  CUgraphNodeType type = CU_GRAPH_NODE_TYPE_EMPTY;
  if (next.cuGraphNodeGetType(node, &type) != CUDA_SUCCESS) {
    sums.unsure = true;
  } else if (type == CU_GRAPH_NODE_TYPE_MEM_ALLOC) {
    CUDA_MEM_ALLOC_NODE_PARAMS params{};
    if (next.cuGraphMemAllocNodeGetParams(node, &params) != CUDA_SUCCESS) {
      sums.unsure = true;
      return;
    }
    const Device* const d = params.poolProps.location.type == CU_MEM_LOCATION_TYPE_DEVICE
                                ? device(params.poolProps.location.id)
                                : nullptr;
    if (d != nullptr) sums.bytes[d->number] += round_up(params.bytesize, kSlabBytes);
  } else if (type == CU_GRAPH_NODE_TYPE_GRAPH && depth < 16) {
    CUgraph child = nullptr;
    if (next.cuGraphChildGraphNodeGetGraph(node, &child) == CUDA_SUCCESS) {
      add_nodes(child, sums, depth + 1);
    }
  }
}

void add_nodes(CUgraph graph, Sums& sums, int depth) noexcept {
  std::size_t n = 0;
  if (next.cuGraphGetNodes(graph, nullptr, &n) != CUDA_SUCCESS || n == 0) return;
  NodeList list{n};
  if (list.data() == nullptr || next.cuGraphGetNodes(graph, list.data(), &n) != CUDA_SUCCESS) {
    sums.unsure = true;
    return;
  }
  for (std::size_t i = 0; i < n; ++i) add_node(list.data()[i], sums, depth);
}

// One map entry a device; the device is part of the key.
std::uint64_t exec_key(CUgraphExec exec, std::uint8_t device) noexcept {
  return handle_key(exec, Space::kGraph) ^ static_cast<std::uint64_t>(device) << 56;
}

void forget_exec(CUgraphExec exec) noexcept {
  int n = 0;
  static_cast<void>(devices(&n));
  for (int i = 0; i < n; ++i) {
    Value v;
    static_cast<void>(books.map.remove(exec_key(exec, static_cast<std::uint8_t>(i)), v));
  }
}

CUresult instantiated(CUresult r, CUgraphExec* exec, CUgraph graph) noexcept {
  if (r != CUDA_SUCCESS || exec == nullptr || mode() != Mode::kOn || !usable()) return r;
  graph_moves_made(*exec, graph);
  Sums sums;
  add_nodes(graph, sums, 0);
  if (sums.unsure) count(Count::kFault);
  for (std::uint8_t i = 0; i < kMaxDevices; ++i) {
    if (sums.bytes[i] == 0) continue;
    const std::uint64_t bytes = round_up(sums.bytes[i], books.grain[i].pool);
    const std::uint64_t booked = bytes < kMostBytes ? bytes : kMostBytes;
    if (!keep(exec_key(*exec, i), {units_of(booked), i, Kind::kGraph, 0})) {
      forget_exec(*exec);
      graph_moves_gone(*exec);
      next.cuGraphExecDestroy(*exec);
      return CUDA_ERROR_OUT_OF_MEMORY;
    }
    books.graph_memory.store(true,
                             std::memory_order_relaxed);  // rises before anybody knows the exec
  }
  return r;
}

// 1..255; an executable that took its memory in the present epoch needs no more.
std::uint8_t epoch_now() noexcept {
  return static_cast<std::uint8_t>(books.graph_epoch.load(std::memory_order_relaxed) % 255 + 1);
}

// Pays for what the graph may take on each device, calls, and corrects.
template <class Call>
[[gnu::cold, gnu::noinline]] CUresult launch_with_memory(CUgraphExec exec, Call call) noexcept {
  std::uint64_t paid[kMaxDevices] = {};
  bool has[kMaxDevices] = {};
  int n = 0;
  Device* const all = devices(&n);
  bool refused = false;
  for (int i = 0; i < n && !refused; ++i) {
    const auto number = static_cast<std::uint8_t>(i);
    const AllocMap::Cursor c = books.map.find(exec_key(exec, number));
    if (!c) continue;
    Value v = AllocMap::value_of(c);
    Pool& p = books.pools.graph(number);
    const std::uint8_t epoch = epoch_now();
    if (v.context != epoch) {
      if (!pool_begin(p, all[i], bytes_of(v.units))) {
        refused = true;
        break;
      }
      paid[i] = bytes_of(v.units);
      v.context = epoch;
      static_cast<void>(books.map.update(c, v));
    }
    has[i] = true;
  }
  const CUresult r = refused ? CUDA_ERROR_OUT_OF_MEMORY : call();
  for (int i = 0; i < n; ++i) {
    if (!has[i]) continue;
    const auto number = static_cast<std::uint8_t>(i);
    pool_settle_forced(books.pools.graph(number), all[i], paid[i]);
    if (r == CUDA_SUCCESS || paid[i] == 0) continue;
    const AllocMap::Cursor c = books.map.find(exec_key(exec, number));
    if (!c) continue;
    Value v = AllocMap::value_of(c);
    v.context = 0;  // nothing was taken: pay again next time
    static_cast<void>(books.map.update(c, v));
  }
  return r;
}

template <class Call>
inline CUresult launch(CUgraphExec exec, Call call) noexcept {
  // relaxed: who launches an exec knows of its instantiation
  if (!books.graph_memory.load(std::memory_order_relaxed)) [[likely]]
    return call();
  return launch_with_memory(exec, call);
}

template <class Call>
[[gnu::cold, gnu::noinline]] CUresult long_launch(const QuickKey& key, CUgraphExec exec,
                                                  CUstream stream, Twin twin, Call call) noexcept {
  Ticket t;
  compute_begin(t, graph_what(exec), stream, twin);
  quick_learn(key, t);
  return compute_end(t, launch(exec, call));
}

// A launch that starts work, unlike an upload: it also waits for the tenant's share.
template <class Call>
[[gnu::noinline]] CUresult limited_launch(CUgraphExec exec, CUstream stream, Twin twin,
                                          Call call) noexcept {
  const QuickKey key = quick_graph(exec, stream, twin);
  if (StreamBook* const book = quick_begin(key)) [[likely]]
    return quick_end(*book, launch(exec, call));
  return long_launch(key, exec, stream, twin, call);
}

template <class Call>
[[gnu::noinline]] CUresult moving_launch(CUgraphExec exec, CUstream stream, Twin twin,
                                         Call call) noexcept {
  return graph_moves(exec, On{stream, twin, true}, [=] {
    return compute_limited() ? limited_launch(exec, stream, twin, call) : launch(exec, call);
  });
}

void trimmed(CUdevice ordinal) noexcept {
  Device* const d = books_ready() ? device(ordinal) : nullptr;
  if (d == nullptr) return;
  books.graph_epoch.fetch_add(1, std::memory_order_relaxed);  // a number that has to differ
  pool_shrink(books.pools.graph(static_cast<std::uint8_t>(d->number)), *d);
}

}  // namespace

CUresult cuGraphInstantiate(CUgraphExec* phGraphExec, CUgraph hGraph, CUgraphNode* phErrorNode,
                            char* logBuffer, size_t bufferSize) noexcept {
  return instantiated(
      next.cuGraphInstantiate(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize), phGraphExec,
      hGraph);
}
CUresult cuGraphInstantiate_v2(CUgraphExec* phGraphExec, CUgraph hGraph, CUgraphNode* phErrorNode,
                               char* logBuffer, size_t bufferSize) noexcept {
  return instantiated(
      next.cuGraphInstantiate_v2(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize),
      phGraphExec, hGraph);
}

namespace {

constexpr unsigned long long kUpload = 2;  // CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD

// Instantiation that uploads at once takes the memory inside the call: paid before, like a launch.
template <class Call>
CUresult instantiate_uploading(CUgraphExec* exec, CUgraph graph,
                               const CUDA_GRAPH_INSTANTIATE_PARAMS* params, Call call) noexcept {
  const bool uploads = params != nullptr && (params->flags & kUpload) != 0;
  if (!uploads || mode() != Mode::kOn || !usable()) return instantiated(call(), exec, graph);
  Sums sums;
  add_nodes(graph, sums, 0);
  int n = 0;
  Device* const all = devices(&n);
  int paid = 0;
  for (; paid < n; ++paid) {
    const auto number = static_cast<std::uint8_t>(paid);
    sums.bytes[paid] = round_up(sums.bytes[paid], books.grain[number].pool);
    if (sums.bytes[paid] == 0) continue;
    if (!pool_begin(books.pools.graph(number), all[paid], sums.bytes[paid])) break;
  }
  const CUresult r = paid == n ? call() : CUDA_ERROR_OUT_OF_MEMORY;
  for (int i = 0; i < paid; ++i) {
    if (sums.bytes[i] == 0) continue;
    pool_settle_forced(books.pools.graph(static_cast<std::uint8_t>(i)), all[i], sums.bytes[i]);
  }
  return instantiated(r, exec, graph);
}

}  // namespace

CUresult cuGraphInstantiateWithFlags(CUgraphExec* phGraphExec, CUgraph hGraph,
                                     unsigned long long flags) noexcept {
  return instantiated(next.cuGraphInstantiateWithFlags(phGraphExec, hGraph, flags), phGraphExec,
                      hGraph);
}
CUresult cuGraphInstantiateWithParams(CUgraphExec* phGraphExec, CUgraph hGraph,
                                      CUDA_GRAPH_INSTANTIATE_PARAMS* instantiateParams) noexcept {
  return instantiate_uploading(phGraphExec, hGraph, instantiateParams, [=] {
    return next.cuGraphInstantiateWithParams(phGraphExec, hGraph, instantiateParams);
  });
}
CUresult cuGraphInstantiateWithParams_ptsz(
    CUgraphExec* phGraphExec, CUgraph hGraph,
    CUDA_GRAPH_INSTANTIATE_PARAMS* instantiateParams) noexcept {
  return instantiate_uploading(phGraphExec, hGraph, instantiateParams, [=] {
    return next.cuGraphInstantiateWithParams_ptsz(phGraphExec, hGraph, instantiateParams);
  });
}

CUresult cuGraphExecDestroy(CUgraphExec hGraphExec) noexcept {
  graph_moves_gone(hGraphExec);  // before: a new one may be at this address at once
  const CUresult r = next.cuGraphExecDestroy(hGraphExec);
  graph_changed(hGraphExec);  // the next one at this address is another
  // relaxed: who destroys an exec knows of its instantiation
  if (r == CUDA_SUCCESS && books_ready() && books.graph_memory.load(std::memory_order_relaxed)) {
    forget_exec(hGraphExec);
  }
  return r;
}

// Recorded first, then held: a launch that waits for its share has its entries already.
CUresult cuGraphLaunch(CUgraphExec hGraph, CUstream hStream) noexcept {
  const auto call = [=] { return next.cuGraphLaunch(hGraph, hStream); };
  if (graphs_move()) [[unlikely]]
    return moving_launch(hGraph, hStream, Twin::kPlain, call);
  if (!compute_limited()) [[likely]]
    return launch(hGraph, call);
  return limited_launch(hGraph, hStream, Twin::kPlain, call);
}
CUresult cuGraphLaunch_ptsz(CUgraphExec hGraphExec, CUstream hStream) noexcept {
  const auto call = [=] { return next.cuGraphLaunch_ptsz(hGraphExec, hStream); };
  if (graphs_move()) [[unlikely]]
    return moving_launch(hGraphExec, hStream, Twin::kPerThread, call);
  if (!compute_limited()) [[likely]]
    return launch(hGraphExec, call);
  return limited_launch(hGraphExec, hStream, Twin::kPerThread, call);
}
CUresult cuGraphUpload(CUgraphExec hGraph, CUstream hStream) noexcept {
  return launch(hGraph, [=] { return next.cuGraphUpload(hGraph, hStream); });
}
CUresult cuGraphUpload_ptsz(CUgraphExec hGraphExec, CUstream hStream) noexcept {
  return launch(hGraphExec, [=] { return next.cuGraphUpload_ptsz(hGraphExec, hStream); });
}

CUresult cuDeviceGraphMemTrim(CUdevice dev) noexcept {
  const CUresult r = next.cuDeviceGraphMemTrim(dev);
  if (r == CUDA_SUCCESS) trimmed(dev);
  return r;
}
CUresult cuDeviceSetGraphMemAttribute(CUdevice dev, CUgraphMem_attribute attr,
                                      void* value) noexcept {
  const CUresult r = next.cuDeviceSetGraphMemAttribute(dev, attr, value);
  if (r == CUDA_SUCCESS) trimmed(dev);
  return r;
}

}  // namespace bulkhead::hook
