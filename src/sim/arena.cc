#include "sim/arena.h"

#include <iterator>
#include <set>

namespace bulkhead::sim {

CUdeviceptr Arena::allocate(std::size_t bytes) noexcept {
  bytes = round_up(bytes == 0 ? 1 : bytes, grain_);
  auto fit = free_.begin();
  while (fit != free_.end() && fit->second.bytes < bytes) ++fit;
  if (fit == free_.end()) {
    Segment* s = take_segment(unit_, slab_);
    if (s == nullptr) return 0;
    fit = free_.emplace(s->base, Block{slab_, s}).first;
  }
  const CUdeviceptr at = fit->first;
  const Block whole = fit->second;
  free_.erase(fit);
  used_.emplace(at, Block{bytes, whole.segment});
  if (whole.bytes > bytes) free_.emplace(at + bytes, Block{whole.bytes - bytes, whole.segment});
  return at;
}

// Makes one block of two free neighbours of one slab.
void Arena::join(Blocks::iterator it, Blocks::iterator next) noexcept {
  if (it->second.segment != next->second.segment || it->first + it->second.bytes != next->first) {
    return;
  }
  it->second.bytes += next->second.bytes;
  free_.erase(next);
}

void Arena::free(CUdeviceptr at) noexcept {
  const auto it = used_.find(at);
  if (it == used_.end()) return;
  auto block = free_.emplace(at, it->second).first;
  used_.erase(it);
  if (std::next(block) != free_.end()) join(block, std::next(block));
  if (block != free_.begin()) {
    const auto before = std::prev(block);
    const std::size_t bytes = before->second.bytes;
    join(before, block);
    if (before->second.bytes != bytes) block = before;
  }
  Segment* s = block->second.segment;
  if (block->second.bytes != s->bytes) return;
  free_.erase(block);
  drop_segment(s);
}

void Arena::clear() noexcept {
  std::set<Segment*> segments;
  for (const auto& [at, b] : used_) segments.insert(b.segment);
  for (const auto& [at, b] : free_) segments.insert(b.segment);
  for (Segment* s : segments) drop_segment(s);
  used_.clear();
  free_.clear();
}

Segment* Arena::segment_of(CUdeviceptr at) const noexcept {
  auto it = used_.upper_bound(at);
  if (it == used_.begin()) return nullptr;
  --it;
  return at < it->first + it->second.bytes ? it->second.segment : nullptr;
}

}  // namespace bulkhead::sim
