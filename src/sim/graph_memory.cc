// What graphs allocate. As measured: nothing is taken when a node is added or instantiated; at the first
// launch (or upload) each live allocation takes its size rounded up to a pool block; freed blocks are kept
// for the device's graphs until they are trimmed.
#include <sys/mman.h>

#include <algorithm>

#include "sim/api.h"
#include "sim/graph.h"

namespace bulkhead::sim {
namespace {

struct Block {
  int ordinal = 0;
  std::size_t bytes = 0, rounded = 0;
  bool live = false;
};
std::unordered_map<CUdeviceptr, Block>& blocks() noexcept {
  static auto* map = new std::unordered_map<CUdeviceptr, Block>;
  return *map;
}

Device& device(int ordinal) noexcept { return driver().devices[static_cast<unsigned>(ordinal)]; }

bool reserve_to(Device& d, std::uint64_t want) noexcept {
  if (want <= d.graph_reserved) return true;
  // Not take_bytes(): trimming would give back what this very launch is about to use.
  if (!take(d.unit, want - d.graph_reserved)) return false;
  d.graph_reserved = want;
  d.graph_reserved_high = std::max(d.graph_reserved_high, want);
  return true;
}

}  // namespace

CUdeviceptr reserve_graph_memory(int ordinal, std::size_t bytes) noexcept {
  const std::size_t rounded = round_up(bytes, machine.profile.pool_block_bytes);
  const CUdeviceptr at = reserve_pages(rounded, machine.profile.granularity_bytes, 0);
  if (at != 0) blocks().emplace(at, Block{ordinal, bytes, rounded, false});
  return at;
}

std::size_t graph_block_bytes(CUdeviceptr at) noexcept {
  const auto it = blocks().find(at);
  return it == blocks().end() ? 0 : it->second.rounded;
}

CUresult prepare_graph_memory(int ordinal, std::size_t bytes) noexcept {
  Device& d = device(ordinal);
  return reserve_to(d, d.graph_used + bytes) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult back_graph_memory(CUdeviceptr at) noexcept {
  const auto it = blocks().find(at);
  if (it == blocks().end()) return CUDA_ERROR_INVALID_VALUE;
  Block& b = it->second;
  if (b.live) return CUDA_SUCCESS;
  Device& d = device(b.ordinal);
  if (!reserve_to(d, d.graph_used + b.rounded)) return CUDA_ERROR_OUT_OF_MEMORY;
  d.graph_used += b.rounded;
  d.graph_used_high = std::max(d.graph_used_high, d.graph_used);
  b.live = true;
  ::mprotect(reinterpret_cast<void*>(at), b.rounded, PROT_READ | PROT_WRITE);
  Range r;
  r.kind = Kind::kGraph;
  r.base = at;
  r.bytes = b.bytes;
  r.ordinal = b.ordinal;
  add_range(r);
  return CUDA_SUCCESS;
}

void free_graph_memory(CUdeviceptr at) noexcept {
  const auto it = blocks().find(at);
  if (it == blocks().end() || !it->second.live) return;
  it->second.live = false;
  device(it->second.ordinal).graph_used -= it->second.rounded;
  driver().ranges.erase(at);
  ::madvise(reinterpret_cast<void*>(at), it->second.rounded, MADV_DONTNEED);
}

void trim_graph_memory(unsigned unit) noexcept {
  for (Device& d : driver().devices) {
    if (d.unit != unit || d.graph_reserved == d.graph_used) continue;
    give(unit, d.graph_reserved - d.graph_used);
    d.graph_reserved = d.graph_used;
  }
}

void reset_graph_memory(int ordinal) noexcept {
  for (auto& [at, b] : blocks()) {
    if (b.ordinal == ordinal) free_graph_memory(at);
  }
  trim_graph_memory(device(ordinal).unit);
}

CUresult api::cuDeviceGraphMemTrim(CUdevice dev) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (!valid_device(dev)) return CUDA_ERROR_INVALID_DEVICE;
  trim_graph_memory(device(dev).unit);
  return CUDA_SUCCESS;
}

CUresult api::cuDeviceGetGraphMemAttribute(CUdevice dev, CUgraphMem_attribute attr, void* value) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (!valid_device(dev)) return CUDA_ERROR_INVALID_DEVICE;
  if (value == nullptr || attr > CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH) return CUDA_ERROR_INVALID_VALUE;
  const Device& d = device(dev);
  const std::uint64_t answers[] = {d.graph_used, d.graph_used_high, d.graph_reserved, d.graph_reserved_high};
  *static_cast<cuuint64_t*>(value) = answers[attr];
  return CUDA_SUCCESS;
}

CUresult api::cuDeviceSetGraphMemAttribute(CUdevice dev, CUgraphMem_attribute attr, void* value) noexcept {
  const Call call{Need::kInit};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (!valid_device(dev)) return CUDA_ERROR_INVALID_DEVICE;
  if (value == nullptr || *static_cast<cuuint64_t*>(value) != 0) return CUDA_ERROR_INVALID_VALUE;
  Device& d = device(dev);
  if (attr == CU_GRAPH_MEM_ATTR_USED_MEM_HIGH) {
    d.graph_used_high = d.graph_used;
  } else if (attr == CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH) {
    d.graph_reserved_high = d.graph_reserved;
  } else {
    return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

}  // namespace bulkhead::sim
