// What the two files of the driver's model share.
#pragma once
#include <map>

#include "hook/memory_fake.h"

namespace bulkhead::hook::fake {

using Lock = std::lock_guard<std::recursive_mutex>;

// First fit over blocks of `block` bytes at `grain`, as slabs and pools are.
struct Arena {
  std::uint64_t block, grain;
  std::map<std::uint64_t, std::map<std::uint64_t, std::uint64_t>>
      blocks;  // base -> offset -> bytes

  std::uint64_t fit(std::uint64_t n) {
    for (auto& [base, used] : blocks) {
      std::uint64_t at = 0;
      for (auto& [from, bytes] : used) {
        if (from - at >= n) break;
        at = from + bytes;
      }
      if (at + n <= block) return base + at;
    }
    return 0;
  }
};

std::uint64_t up(std::uint64_t n, std::uint64_t to);
bool take(std::uint64_t bytes);  // false: the device is full
void give(std::uint64_t bytes);
bool failing();                                                 // this call is to fail
std::uint64_t fresh(std::uint64_t bytes, std::uint64_t align);  // addresses
std::uint64_t arena_take(Arena& a, std::uint64_t n);
void arena_free(Arena& a, std::uint64_t at);
extern std::uint64_t next_handle;

template <class E, class F>
void set(E& entry, F function) {
  static F keep = function;
  entry.set(reinterpret_cast<void*>(+keep));
}

// memory_fake_more_test.cc: VMM, arrays and graphs.
void set_more();
void clear_more();
void drop_arrays(CUcontext ctx);
void drop_graph_memory();

}  // namespace bulkhead::hook::fake
