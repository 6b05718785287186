// Scratch for a graph's nodes: on the stack for most graphs, else mapped.
#pragma once
#include <sys/mman.h>

#include <cstddef>

#include "abi/cuda_types.h"

namespace bulkhead::hook {

class NodeList {
 public:
  explicit NodeList(std::size_t n) noexcept {
    if (n <= kInline) return;
    bytes_ = n * sizeof(CUgraphNode);
    void* const at =
        ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    far_ = at == MAP_FAILED ? nullptr : static_cast<CUgraphNode*>(at);
  }
  ~NodeList() {
    if (far_ != nullptr) ::munmap(far_, bytes_);
  }
  NodeList(const NodeList&) = delete;
  NodeList& operator=(const NodeList&) = delete;
  CUgraphNode* data() noexcept { return bytes_ != 0 ? far_ : near_; }  // null: no memory

 private:
  static constexpr std::size_t kInline = 128;
  CUgraphNode near_[kInline];
  CUgraphNode* far_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace bulkhead::hook
