// Records that do not fit into a map entry (VMM allocations, their mappings, arrays inside slabs): nodes of 32 bytes from
// a fixed store, named by index.
//
// Claim  get and put are lock-free; a node is handed to one caller at a time (Treiber stack; the head carries
//        a tag, so a node that was taken and put back meanwhile is noticed).
// Price  at most kCount nodes at a time; get() answers 0 when there are none, and the caller refuses.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace bulkhead::hook {

struct alignas(32) Node {
  std::atomic<std::uint64_t> word;  // VMM: references and mappings
  std::uint64_t a, b;  // written by whoever got the node, before its index is published
  std::atomic<std::uint32_t> next;  // free list
  std::uint32_t c;
};

class NodeStore {
 public:
  static constexpr std::uint32_t kCount = 1u << 20;
  static std::size_t bytes_needed() noexcept { return sizeof(Node) * kCount; }
  void init(void* zeroed) noexcept {
    nodes_ = static_cast<Node*>(zeroed);
    head_.store(0, std::memory_order_relaxed);  // nobody else knows the store yet
    fresh_.store(1, std::memory_order_relaxed);
  }
  Node& operator[](std::uint32_t index) noexcept { return nodes_[index & (kCount - 1)]; }

  std::uint32_t get() noexcept {
    std::uint64_t h = head_.load(std::memory_order_acquire);  // pairs with put()
    while (static_cast<std::uint32_t>(h) != 0) {              // lock-free
      const auto index = static_cast<std::uint32_t>(h);
      const std::uint32_t below =
          nodes_[index].next.load(std::memory_order_relaxed);  // CAS validates
      if (head_.compare_exchange_weak(h, ((h >> 32) + 1) << 32 | below, std::memory_order_acquire,
                                      std::memory_order_acquire)) {  // pairs with put()
        return index;
      }
    }
    const std::uint32_t index =
        fresh_.fetch_add(1, std::memory_order_relaxed);  // a number, no more
    if (index < kCount) return index;
    fresh_.store(kCount, std::memory_order_relaxed);  // keeps it from wrapping
    return 0;
  }
  void put(std::uint32_t index) noexcept {
    std::uint64_t h = head_.load(std::memory_order_relaxed);  // the CAS validates it
    do {
      nodes_[index].next.store(static_cast<std::uint32_t>(h), std::memory_order_relaxed);
      // release pairs with get(): the node's fields are free to be written
    } while (!head_.compare_exchange_weak(h, ((h >> 32) + 1) << 32 | index,
                                          std::memory_order_release, std::memory_order_relaxed));
  }

 private:
  Node* nodes_ = nullptr;
  std::atomic<std::uint64_t> head_{0};  // tag << 32 | index
  std::atomic<std::uint32_t> fresh_{0};
};

}  // namespace bulkhead::hook
