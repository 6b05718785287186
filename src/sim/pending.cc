// To be replaced.
#include "sim/family.h"
#include "sim/graph.h"
#include "sim/pool.h"
namespace bulkhead::sim {
void release_arrays(Context&) noexcept {}
void release_modules(Context&) noexcept {}
bool make_exportable(Pool&) noexcept { return false; }
void free_graph_memory(CUdeviceptr) noexcept {}
void trim_graph_memory(unsigned) noexcept {}
void reset_graph_memory(int) noexcept {}
CUresult capture_allocation(Stream&, int, std::size_t, CUdeviceptr&) noexcept { return CUDA_ERROR_NOT_SUPPORTED; }
CUresult capture_free(Stream&, CUdeviceptr) noexcept { return CUDA_ERROR_NOT_SUPPORTED; }
}
