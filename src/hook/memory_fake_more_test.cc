// The model of memory_fake.h, second part: VMM, arrays and graphs.
#include "hook/memory_fake_model.h"

namespace bulkhead::hook::fake {
namespace {

struct Vmm {
  std::uint64_t bytes;
  int refs, maps;
};
std::map<CUmemGenericAllocationHandle, Vmm> vmm;
std::map<CUdeviceptr, std::pair<CUmemGenericAllocationHandle, std::uint64_t>> mapped;
struct ArrayModel {
  std::uint64_t bytes;
  CUcontext ctx;
  std::uint64_t place;  // small: in its arena
  bool deferred;
};
std::map<std::uintptr_t, ArrayModel> arrays;
std::map<CUcontext, Arena> array_slabs;
struct GraphModel {
  std::vector<std::uint64_t> sizes;
  CUgraph child = nullptr;
};
std::map<CUgraph, GraphModel> graphs;
std::map<CUgraphExec, std::uint64_t> execs;
std::uint64_t graph_reserved = 0;

std::uint64_t array_bytes(const CUDA_ARRAY3D_DESCRIPTOR& d, unsigned levels) {
  return up(d.Width * 4 * d.NumChannels, 512) * std::max<std::uint64_t>(d.Height, 1) *
         std::max<std::uint64_t>(d.Depth, 1) * (levels > 1 ? 2 : 1);
}
std::uintptr_t make_array(const CUDA_ARRAY3D_DESCRIPTOR& d, unsigned levels, CUresult& r) {
  const Lock l{driver.lock};
  const bool deferred = (d.Flags & 0x80) != 0;
  r = deferred && !driver.probes ? CUDA_ERROR_NOT_SUPPORTED : CUDA_SUCCESS;
  if (!deferred && failing()) r = CUDA_ERROR_UNKNOWN;
  if (r != CUDA_SUCCESS) return 0;
  ArrayModel a{array_bytes(d, levels), hook::here().context, 0, deferred};
  if (!deferred) {
    if (a.bytes < 2 * kMiB) {
      Arena& arena =
          array_slabs.try_emplace(hook::here().context, Arena{2 * kMiB, 512, {}}).first->second;
      a.place = arena_take(arena, a.bytes);
      if (a.place == 0) r = CUDA_ERROR_OUT_OF_MEMORY;
    } else if (!take(a.bytes = up(a.bytes, 2 * kMiB))) {
      r = CUDA_ERROR_OUT_OF_MEMORY;
    }
  }
  if (r != CUDA_SUCCESS) return 0;
  arrays[next_handle += 64] = a;
  return next_handle;
}
CUresult drop_array(std::uintptr_t h) {
  const Lock l{driver.lock};
  auto it = arrays.find(h);
  if (it == arrays.end()) return CUDA_ERROR_INVALID_HANDLE;
  if (!it->second.deferred) {
    if (it->second.place != 0) {
      arena_free(array_slabs.at(it->second.ctx), it->second.place);
    } else {
      give(it->second.bytes);
    }
  }
  arrays.erase(it);
  return CUDA_SUCCESS;
}
CUresult array_need(CUDA_ARRAY_MEMORY_REQUIREMENTS* need, std::uintptr_t h) {
  const Lock l{driver.lock};
  if (!arrays.contains(h) || !arrays[h].deferred) return CUDA_ERROR_INVALID_VALUE;
  *need = {arrays[h].bytes, 512, {}};
  return CUDA_SUCCESS;
}

void drop_vmm(CUmemGenericAllocationHandle h) {
  Vmm& v = vmm.at(h);
  if (v.refs != 0 || v.maps != 0) return;
  give(v.bytes);
  vmm.erase(h);
}

std::uint64_t nodes_bytes(CUgraph g) {
  std::uint64_t sum = 0;
  for (const std::uint64_t n : graphs[g].sizes) sum += n;
  return sum + (graphs[g].child != nullptr ? nodes_bytes(graphs[g].child) : 0);
}
CUresult launch_graph(CUgraphExec e, CUstream) {
  const Lock l{driver.lock};
  const std::uint64_t want = up(execs[e], 32 * kMiB);
  if (want > graph_reserved) {
    if (!take(want - graph_reserved)) return CUDA_ERROR_OUT_OF_MEMORY;
    graph_reserved = want;
  }
  return CUDA_SUCCESS;
}

void set_vmm() {
  set(next.cuMemCreate, [](CUmemGenericAllocationHandle* h, size_t n, const CUmemAllocationProp*,
                           unsigned long long) {
    const Lock l{driver.lock};
    if (failing()) return CUDA_ERROR_UNKNOWN;
    if (n % (2 * kMiB) != 0) return CUDA_ERROR_INVALID_VALUE;
    if (!take(n)) return CUDA_ERROR_OUT_OF_MEMORY;
    vmm[*h = next_handle += 64] = {n, 1, 0};
    return CUDA_SUCCESS;
  });
  set(next.cuMemRelease, [](CUmemGenericAllocationHandle h) {
    const Lock l{driver.lock};
    auto it = vmm.find(h);
    if (it == vmm.end() || it->second.refs == 0) return CUDA_ERROR_INVALID_VALUE;
    --it->second.refs;
    drop_vmm(h);
    return CUDA_SUCCESS;
  });
  set(next.cuMemRetainAllocationHandle, [](CUmemGenericAllocationHandle* h, void* addr) {
    const Lock l{driver.lock};
    auto it = mapped.find(reinterpret_cast<CUdeviceptr>(addr));
    if (it == mapped.end()) return CUDA_ERROR_INVALID_VALUE;
    *h = it->second.first;
    ++vmm.at(*h).refs;
    return CUDA_SUCCESS;
  });
  set(next.cuMemMap,
      [](CUdeviceptr p, size_t n, size_t, CUmemGenericAllocationHandle h, unsigned long long) {
        const Lock l{driver.lock};
        if (!vmm.contains(h) || mapped.contains(p)) return CUDA_ERROR_INVALID_VALUE;
        ++vmm.at(h).maps;
        mapped[p] = {h, n};
        return CUDA_SUCCESS;
      });
  set(next.cuMemUnmap, [](CUdeviceptr p, size_t n) {
    const Lock l{driver.lock};
    for (auto it = mapped.lower_bound(p); it != mapped.end() && it->first < p + n;) {
      const auto h = it->second.first;
      it = mapped.erase(it);
      --vmm.at(h).maps;
      drop_vmm(h);
    }
    return CUDA_SUCCESS;
  });
}

void set_arrays_and_graphs() {
  set(next.cuArray3DCreate_v2, [](CUarray* a, const CUDA_ARRAY3D_DESCRIPTOR* d) {
    CUresult r;
    *a = reinterpret_cast<CUarray>(make_array(*d, 0, r));
    return r;
  });
  set(next.cuArrayCreate_v2, [](CUarray* a, const CUDA_ARRAY_DESCRIPTOR* d) {
    CUresult r;
    *a = reinterpret_cast<CUarray>(
        make_array({d->Width, d->Height, 0, d->Format, d->NumChannels, 0}, 0, r));
    return r;
  });
  set(next.cuMipmappedArrayCreate,
      [](CUmipmappedArray* a, const CUDA_ARRAY3D_DESCRIPTOR* d, unsigned levels) {
        CUresult r;
        *a = reinterpret_cast<CUmipmappedArray>(make_array(*d, levels, r));
        return r;
      });
  set(next.cuArrayDestroy,
      [](CUarray a) { return drop_array(reinterpret_cast<std::uintptr_t>(a)); });
  set(next.cuMipmappedArrayDestroy,
      [](CUmipmappedArray a) { return drop_array(reinterpret_cast<std::uintptr_t>(a)); });
  set(next.cuArrayGetMemoryRequirements,
      [](CUDA_ARRAY_MEMORY_REQUIREMENTS* n, CUarray a, CUdevice) {
        return array_need(n, reinterpret_cast<std::uintptr_t>(a));
      });
  set(next.cuMipmappedArrayGetMemoryRequirements,
      [](CUDA_ARRAY_MEMORY_REQUIREMENTS* n, CUmipmappedArray a, CUdevice) {
        return array_need(n, reinterpret_cast<std::uintptr_t>(a));
      });
  // A node is its graph's address with its number; the child's comes last.
  set(next.cuGraphGetNodes, [](CUgraph g, CUgraphNode* nodes, size_t* n) {
    const GraphModel& m = graphs[g];
    *n = m.sizes.size() + (m.child != nullptr ? 1 : 0);
    for (std::size_t i = 0; nodes != nullptr && i < *n; ++i) {
      nodes[i] = reinterpret_cast<CUgraphNode>(reinterpret_cast<std::uintptr_t>(g) + i + 1);
    }
    return CUDA_SUCCESS;
  });
  static constexpr auto split = [](CUgraphNode node, std::size_t& i) -> GraphModel& {
    const auto h = reinterpret_cast<std::uintptr_t>(node);
    i = h % 1024 - 1;
    return graphs[reinterpret_cast<CUgraph>(h / 1024 * 1024)];
  };
  set(next.cuGraphNodeGetType, [](CUgraphNode node, CUgraphNodeType* t) {
    std::size_t at = 0;
    GraphModel& m = split(node, at);
    *t = at < m.sizes.size() ? CU_GRAPH_NODE_TYPE_MEM_ALLOC : CU_GRAPH_NODE_TYPE_GRAPH;
    return CUDA_SUCCESS;
  });
  set(next.cuGraphMemAllocNodeGetParams, [](CUgraphNode node, CUDA_MEM_ALLOC_NODE_PARAMS* p) {
    std::size_t i = 0;
    GraphModel& m = split(node, i);
    p->poolProps.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    p->bytesize = m.sizes[i];
    return CUDA_SUCCESS;
  });
  set(next.cuGraphChildGraphNodeGetGraph, [](CUgraphNode node, CUgraph* g) {
    std::size_t i = 0;
    *g = split(node, i).child;
    return CUDA_SUCCESS;
  });
  set(next.cuGraphInstantiateWithFlags, [](CUgraphExec* e, CUgraph g, unsigned long long) {
    *e = reinterpret_cast<CUgraphExec>(next_handle += 64);
    execs[*e] = nodes_bytes(g);
    return CUDA_SUCCESS;
  });
  set(next.cuGraphInstantiateWithParams,
      [](CUgraphExec* e, CUgraph g, CUDA_GRAPH_INSTANTIATE_PARAMS* params) {
        *e = reinterpret_cast<CUgraphExec>(next_handle += 64);
        execs[*e] = nodes_bytes(g);
        return (params->flags & 2) != 0 ? launch_graph(*e, nullptr) : CUDA_SUCCESS;
      });
  set(next.cuGraphExecDestroy, [](CUgraphExec e) {
    execs.erase(e);
    return CUDA_SUCCESS;
  });
  set(next.cuGraphLaunch, [](CUgraphExec e, CUstream s) { return launch_graph(e, s); });
  set(next.cuGraphUpload, [](CUgraphExec e, CUstream s) { return launch_graph(e, s); });
  set(next.cuDeviceGetGraphMemAttribute, [](CUdevice, CUgraphMem_attribute a, void* v) {
    *static_cast<std::uint64_t*>(v) =
        a == CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT ? graph_reserved : 0;
    return CUDA_SUCCESS;
  });
  set(next.cuDeviceGraphMemTrim, [](CUdevice) {
    const Lock l{driver.lock};
    give(graph_reserved);
    graph_reserved = 0;
    return CUDA_SUCCESS;
  });
}

}  // namespace

CUgraph graph_of(std::vector<std::uint64_t> sizes) {
  const auto g = reinterpret_cast<CUgraph>(next_handle = up(next_handle + 1024, 1024));
  graphs[g].sizes = std::move(sizes);
  return g;
}
CUgraph parent_of(CUgraph child) {
  const CUgraph g = graph_of({});
  graphs[g].child = child;
  return g;
}

void set_more() {
  set_vmm();
  set_arrays_and_graphs();
}

void drop_arrays(CUcontext ctx) {
  if (auto it = array_slabs.find(ctx); it != array_slabs.end()) {
    give(it->second.blocks.size() * 2 * kMiB);
    array_slabs.erase(it);
  }
  std::erase_if(arrays, [&](auto& entry) {
    if (entry.second.ctx != ctx) return false;
    if (!entry.second.deferred && entry.second.place == 0) give(entry.second.bytes);
    return true;
  });
}

void drop_graph_memory() {
  give(graph_reserved);
  graph_reserved = 0;
}

void clear_more() {
  vmm.clear();
  mapped.clear();
  arrays.clear();
  array_slabs.clear();
  graphs.clear();
  execs.clear();
  graph_reserved = 0;
}

}  // namespace bulkhead::hook::fake
