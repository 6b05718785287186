// One piece of work for a stream: what a call submits, what a capture records, what a graph node does.
// Work runs, as the bytes are concerned, when it is submitted; its time passes on the stream's clock.
#pragma once
#include <vector>

#include "sim/model.h"

namespace bulkhead::sim {

struct Function;

struct Work {
  CUgraphNodeType type = CU_GRAPH_NODE_TYPE_EMPTY;
  Function* function = nullptr;
  unsigned grid[3] = {1, 1, 1}, block[3] = {1, 1, 1};
  unsigned shared_bytes = 0;
  std::vector<unsigned char> args;  // packed as the kernel's table says
  CUDA_MEMCPY3D copy{};
  CUDA_MEMSET_NODE_PARAMS_v2 set{};
  CUhostFn fn = nullptr;
  CUstreamCallback callback = nullptr;
  CUstream callback_stream = nullptr;
  void* data = nullptr;
  Event* event = nullptr;
  CUDA_MEM_ALLOC_NODE_PARAMS_v2 alloc{};
  CUdeviceptr address = 0;  // MEM_FREE
  std::vector<CUstreamBatchMemOpParams> ops;
  Graph* child = nullptr;
};

// Records it if the stream is being captured, else runs it.
CUresult enqueue(Stream& s, Work& w) noexcept;
CUresult perform(Stream& s, const Work& w) noexcept;

// Checks a launch and copies its parameters; Work is then good for as long as the module is.
CUresult make_launch(Work& w, CUfunction f, const unsigned (&grid)[3], const unsigned (&block)[3],
                     unsigned shared_bytes, void** params, void** extra) noexcept;  // launch.cc
bool set_stack_limit(Context& c, std::uint64_t bytes) noexcept;                     // launch.cc
CUresult perform_kernel(Stream& s, const Work& w) noexcept;                         // launch.cc
// Also: what it takes, and which engine does it.
CUresult perform_copy(const CUDA_MEMCPY3D& c, std::uint64_t& cost_ns,
                      EntryKind& kind) noexcept;  // copy.cc
CUresult perform_memset(const CUDA_MEMSET_NODE_PARAMS_v2& m, std::uint64_t& cost_ns) noexcept;
CUresult perform_ops(const std::vector<CUstreamBatchMemOpParams>& ops) noexcept;  // stream_ops.cc
CUresult perform_graph(Stream& s, const Graph& g) noexcept;                       // graph_exec.cc
CUresult capture(Stream& s, Work& w) noexcept;                                    // capture.cc
void record_event(Event& e, Stream& s) noexcept;                                  // event.cc
void await_event(Stream& s, const Event& e) noexcept;                             // event.cc

// While a capture in global mode runs, calls that a graph cannot hold end it and are refused.
CUresult refused_by_capture() noexcept;  // CUDA_SUCCESS: go on

}  // namespace bulkhead::sim
