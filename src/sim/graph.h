// Graphs: what the memory families need to know of them.
#pragma once
#include "sim/model.h"

namespace bulkhead::sim {

// Memory of a graph's allocation nodes. Addresses are fixed when the node is added; bytes are taken
// from the device when the graph is uploaded or launched, and stay until cuDeviceGraphMemTrim.
CUdeviceptr reserve_graph_memory(int ordinal, std::size_t bytes) noexcept;  // 0: no address space
CUresult back_graph_memory(CUdeviceptr at) noexcept;       // by a launch: allocated from here on
CUresult prepare_graph_memory(CUdeviceptr at) noexcept;    // by an upload: reserved only
void free_graph_memory(CUdeviceptr at) noexcept;           // by a free node or a free outside
void trim_graph_memory(unsigned unit) noexcept;
void reset_graph_memory(int ordinal) noexcept;

// A captured cuMemAllocAsync / cuMemFreeAsync becomes a node.
CUresult capture_allocation(Stream& s, int ordinal, std::size_t bytes, CUdeviceptr& out) noexcept;
CUresult capture_free(Stream& s, CUdeviceptr at) noexcept;

}  // namespace bulkhead::sim
