// Graphs: nodes are pieces of Work with dependencies; an executable graph is a private copy in an order
// that honours them.
#pragma once
#include "sim/work.h"

namespace bulkhead::sim {

struct Node {
  Graph* graph = nullptr;
  Work work;
  std::vector<Node*> after;  // what it depends on
  Node* original = nullptr;  // in a copy: the node it was made from
  bool enabled = true;
};

struct Graph {
  std::vector<Node*> nodes;
  bool is_child = false;  // belongs to a node
  ~Graph();
};

struct GraphExec {
  Graph* graph = nullptr;
  std::vector<Node*> order;
  std::uint64_t flags = 0;
  bool launched = false;  // what it allocated may still be held
};

Graph* to_graph(CUgraph h) noexcept;
Node* to_node(CUgraphNode h) noexcept;
GraphExec* to_exec(CUgraphExec h) noexcept;
Graph* new_graph() noexcept;
void delete_graph(Graph* g) noexcept;
Graph* clone_graph(const Graph& g) noexcept;  // children too
// False: the dependencies run in a circle.
bool order_of(const Graph& g, std::vector<Node*>& order) noexcept;
CUresult add_node(Graph& g, const CUgraphNode* deps, std::size_t n, Work& w, CUgraphNode* out) noexcept;
// Fills a Work from the parameters of any node; used by every add and set function.
CUresult work_from(const CUgraphNodeParams& p, Work& w) noexcept;  // graph_nodes.cc

// Memory of allocation nodes (graph_memory.cc). Addresses are fixed when the node is added; bytes are taken
// from the device when the graph is uploaded or launched, and stay until cuDeviceGraphMemTrim.
CUdeviceptr reserve_graph_memory(int ordinal, std::size_t bytes) noexcept;  // 0: no address space
CUresult back_graph_memory(CUdeviceptr at) noexcept;            // by a launch: allocated from here on
CUresult prepare_graph_memory(int ordinal, std::size_t bytes) noexcept;  // by an upload: reserved only
std::size_t graph_block_bytes(CUdeviceptr at) noexcept;         // 0: not such an address
void free_graph_memory(CUdeviceptr at) noexcept;                // by a free node or a free outside
void trim_graph_memory(unsigned unit) noexcept;
void reset_graph_memory(int ordinal) noexcept;

// A captured cuMemAllocAsync / cuMemFreeAsync becomes a node.
CUresult capture_allocation(Stream& s, int ordinal, std::size_t bytes, CUdeviceptr& out) noexcept;
CUresult capture_free(Stream& s, CUdeviceptr at) noexcept;

}  // namespace bulkhead::sim
