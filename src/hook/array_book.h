// Model of the 2 MiB slabs that small arrays share. The driver tells neither the slab nor the place of an array, so the
// model packs them first-fit, at the alignment that the driver states, per context.
//
// Only on the array paths, which cost microseconds in the driver: one spin lock, never held over a driver call.
// A thread that cannot get it within kSpins tries gets "no room" (the array is then charged alone).
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "hook/slab.h"

namespace bulkhead::hook {

class ArrayBook {
 public:
  struct Place {
    std::uint32_t slab = 0;  // index + 1; 0: no room in the book
    std::uint32_t from = 0, units = 0;
    bool opens = false;  // the first of its slab: the caller charges the slab
  };
  static std::size_t bytes_needed() noexcept;
  void init(void* zeroed) noexcept;
  Place place(std::uint8_t context, std::uint8_t device, std::uint32_t units,
              std::uint32_t align_units) noexcept;
  // True: the slab is empty now and its charge is to be given back.
  bool remove(const Place& p) noexcept;
  // Forgets a context's slabs; the number of them that lay on `device`.
  std::uint32_t drop_context(std::uint8_t context, std::uint8_t device) noexcept;
  void unlock_after_fork() noexcept { lock_.store(0, std::memory_order_relaxed); }

 private:
  static constexpr std::uint32_t kSlabs = 4096;
  static constexpr int kSpins = 1 << 16;
  struct Slab;
  bool lock() noexcept;
  void unlock() noexcept;
  Slab* slabs_ = nullptr;
  std::uint32_t high_ = 0;
  std::atomic<std::uint32_t> lock_{0};
};

}  // namespace bulkhead::hook
