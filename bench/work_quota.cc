// Workers of row 5: fill the quota through one API until it refuses.
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include "bench/worker.h"

namespace bulkhead::bench {
namespace {

struct Way {
  std::uint64_t largest = 256 * kMiB;  // requests are halved at each refusal, down to smallest
  std::uint64_t smallest = 2 * kMiB;
  std::function<CUresult(std::uint64_t)> take;
};

CUmemPoolProps pool_on_device_0() {
  CUmemPoolProps p{};
  p.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  p.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  return p;
}

// Memory nodes: the device is charged at upload or launch, and keeps the memory for want of a free node.
CUresult graph_node(Api& cu, std::uint64_t bytes) {
  CUgraph graph{};
  CUgraphNode node{};
  CUgraphExec exec{};
  CUDA_MEM_ALLOC_NODE_PARAMS params{};
  params.poolProps = pool_on_device_0();
  params.bytesize = bytes;
  CUresult r = cu.cuGraphCreate(&graph, 0);
  if (r == CUDA_SUCCESS) r = cu.cuGraphAddMemAllocNode(&node, graph, nullptr, 0, &params);
  if (r == CUDA_SUCCESS) r = cu.cuGraphInstantiateWithFlags(&exec, graph, 0);
  if (r == CUDA_SUCCESS) r = cu.cuGraphLaunch(exec, nullptr);
  if (r == CUDA_SUCCESS) r = cu.cuStreamSynchronize(nullptr);
  return r;
}

CUresult array_3d(Api& cu, std::uint64_t bytes) {
  CUDA_ARRAY3D_DESCRIPTOR d{};  // 1 MiB a layer
  d.Width = 512, d.Height = 512, d.Depth = bytes / kMiB, d.Format = CU_AD_FORMAT_FLOAT,
  d.NumChannels = 1;
  CUarray array{};
  return cu.cuArray3DCreate_v2(&array, &d);
}

CUresult mipmap(Api& cu, std::uint64_t bytes) {
  CUDA_ARRAY3D_DESCRIPTOR d{};  // 16 bytes an element; two levels take 5/4
  d.Width = 1024, d.Height = bytes / 16 / 1024, d.Format = CU_AD_FORMAT_FLOAT, d.NumChannels = 4;
  CUmipmappedArray array{};
  return cu.cuMipmappedArrayCreate(&array, &d, 2);
}

CUresult array_2d(Api& cu, std::uint64_t bytes) {
  CUDA_ARRAY_DESCRIPTOR d{};
  d.Width = 1024, d.Height = bytes / 16 / 1024, d.Format = CU_AD_FORMAT_FLOAT, d.NumChannels = 4;
  CUarray array{};
  return cu.cuArrayCreate_v2(&array, &d);
}

CUresult managed(Worker& w, std::uint64_t bytes) {
  CUdeviceptr p = 0;
  CUresult r = w.cu.cuMemAllocManaged(&p, bytes, CU_MEM_ATTACH_GLOBAL);
  if (r != CUDA_SUCCESS || w.params.number("sim") != 0)
    return r;  // the simulator would touch host memory
  r = w.cu.cuMemsetD8_v2(p, 1, bytes);
  return r == CUDA_SUCCESS ? w.cu.cuCtxSynchronize() : r;
}

// False: no such API by that name.
bool choose(Worker& w, const std::string& api, Way& way) {
  Api& cu = w.cu;
  auto plain = [&cu](std::uint64_t n) {
    CUdeviceptr p = 0;
    return cu.cuMemAlloc_v2(&p, n);
  };
  way.take = plain;
  if (api == "plain large" || api == "8 threads" || api == "IPC import") return true;
  if (api == "plain small") return way.largest = kMiB, way.smallest = 512, true;
  if (api == "second context") {
    CUcontext context{};
    return cu.cuCtxCreate_v2(&context, 0, 0) == CUDA_SUCCESS;  // current from here on
  }
  if (api == "pitch") {
    way.take = [&cu](std::uint64_t n) {
      CUdeviceptr p = 0;
      std::size_t pitch = 0;
      return cu.cuMemAllocPitch_v2(&p, &pitch, 65536, n / 65536, 4);
    };
  } else if (api == "managed") {
    way.take = [&w](std::uint64_t n) { return managed(w, n); };
  } else if (api == "async pool") {
    way.take = [&cu](std::uint64_t n) {
      CUdeviceptr p = 0;
      return cu.cuMemAllocAsync(&p, n, nullptr);
    };
  } else if (api == "own pool") {
    CUmemoryPool pool{};
    const CUmemPoolProps props = pool_on_device_0();
    if (cu.cuMemPoolCreate(&pool, &props) != CUDA_SUCCESS) return false;
    way.take = [&cu, pool](std::uint64_t n) {
      CUdeviceptr p = 0;
      return cu.cuMemAllocFromPoolAsync(&p, n, pool, nullptr);
    };
  } else if (api == "VMM") {
    way.take = [&cu](std::uint64_t n) {
      CUmemAllocationProp prop{};
      prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
      prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
      CUmemGenericAllocationHandle h{};
      return cu.cuMemCreate(&h, n, &prop, 0);
    };
  } else if (api == "array 2D") {
    way.take = [&cu](std::uint64_t n) { return array_2d(cu, n); };
  } else if (api == "array 3D") {
    way.take = [&cu](std::uint64_t n) { return array_3d(cu, n); };
  } else if (api == "mipmap") {
    way.take = [&cu](std::uint64_t n) { return mipmap(cu, n); };
  } else if (api == "graph node") {
    way.take = [&cu](std::uint64_t n) { return graph_node(cu, n); };
  } else {
    return false;
  }
  return true;
}

struct Filled {
  std::uint64_t bytes = 0, calls = 0;
  CUresult last = CUDA_SUCCESS;
  bool odd = false;  // a refusal with another code than out of memory
};

// `most` bounds what is asked in all, so that a limit that does not act ends as a measured overrun.
Filled fill(const Way& way, std::uint64_t most) {
  Filled f;
  for (std::uint64_t n = way.largest; n >= way.smallest;) {
    const CUresult r = f.bytes + n > most ? CUDA_ERROR_OUT_OF_MEMORY : way.take(n);
    if (r == CUDA_SUCCESS) {
      f.bytes += n;
      ++f.calls;
      continue;
    }
    f.last = r;
    f.odd |= r != CUDA_ERROR_OUT_OF_MEMORY;
    n /= 2;
  }
  return f;
}

void note(Worker& w, const Filled& f, std::uint64_t most) {
  std::size_t free = 0, total = 0;
  w.cu.cuMemGetInfo_v2(&free, &total);
  w.out->value[0] = static_cast<double>(f.bytes);
  w.out->value[1] = static_cast<double>(f.last);
  w.out->value[2] = f.odd ? 1 : 0;
  w.out->value[3] = static_cast<double>(total);
  w.out->value[4] = static_cast<double>(free);
  w.out->value[5] = f.bytes + (2 * kMiB) > most ? 1 : 0;  // stopped by the bound, not by a refusal
}

}  // namespace

// Steps: 'r' after the first kernel, then fills, 'f' when full; holds until the next byte.
int work_fill(Worker& w) {
  if (!w.begin()) return 1;
  const std::string api = w.params.text("api");
  const std::uint64_t most = w.params.number("most");
  if (!w.turn('r')) return 1;
  if (api == "IPC import") {
    CUipcMemHandle handle{};
    std::memcpy(&handle, w.out->log,
                sizeof handle);  // put there by the bench from the exporter's block
    CUdeviceptr p = 0;
    const CUresult r = w.cu.cuIpcOpenMemHandle_v2(&p, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
    if (r != CUDA_SUCCESS) return w.fail("cuIpcOpenMemHandle", r);
  }
  Way way;
  if (!choose(w, api, way)) return w.fail(api.c_str(), CUDA_ERROR_NOT_SUPPORTED);
  Filled f;
  if (api == "8 threads") {
    CUcontext context{};
    w.cu.cuCtxGetCurrent(&context);
    std::vector<Filled> each(8);
    std::vector<std::thread> threads;
    threads.reserve(each.size());
    for (Filled& one : each)
      threads.emplace_back([&] {
        w.cu.cuCtxSetCurrent(context);
        one = fill(way, most / 8);
      });
    for (std::thread& t : threads) t.join();
    for (const Filled& one : each) f.bytes += one.bytes, f.odd |= one.odd, f.last = one.last;
  } else {
    f = fill(way, most);
  }
  if (f.bytes == 0 && f.last == CUDA_ERROR_NOT_SUPPORTED) return w.fail(api.c_str(), f.last);
  note(w, f, most);
  return w.turn('f') ? 0 : 1;
}

// Allocates `bytes`, puts its IPC handle into the log, holds until the next byte.
int work_export(Worker& w) {
  if (!w.begin()) return 1;
  CUdeviceptr p = 0;
  CUresult r = w.cu.cuMemAlloc_v2(&p, w.params.number("bytes"));
  if (r != CUDA_SUCCESS) return w.fail("cuMemAlloc", r);
  CUipcMemHandle handle{};
  r = w.cu.cuIpcGetMemHandle(&handle, p);
  if (r != CUDA_SUCCESS) return w.fail("cuIpcGetMemHandle", r);
  std::memcpy(w.out->log, &handle, sizeof handle);
  return w.turn('r') ? 0 : 1;
}

}  // namespace bulkhead::bench
