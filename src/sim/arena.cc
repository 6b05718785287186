#include "sim/arena.h"

#include <iterator>

namespace bulkhead::sim {

CUdeviceptr Arena::allocate(std::size_t bytes, std::size_t max_bytes) noexcept {
  bytes = round_up(bytes, grain_);
  auto fit = free_.lower_bound({bytes, 0});
  if (fit == free_.end()) {
    const std::size_t chunk = round_up(bytes, chunk_);
    if (max_bytes != 0 && reserved_ + chunk > max_bytes) return 0;
    Segment* s = take_segment(unit_, chunk);
    if (s == nullptr) return 0;
    reserved_ += chunk;
    blocks_.emplace(s->base, Block{chunk, s, true});
    fit = free_.emplace(chunk, s->base).first;
  }
  const CUdeviceptr at = fit->second;
  free_.erase(fit);
  Block& b = blocks_.find(at)->second;
  if (b.bytes > bytes) {
    blocks_.emplace(at + bytes, Block{b.bytes - bytes, b.segment, true});
    free_.emplace(b.bytes - bytes, at + bytes);
    b.bytes = bytes;
  }
  b.free = false;
  used_ += bytes;
  return at;
}

void Arena::set_free(Blocks::iterator it) noexcept {
  it->second.free = true;
  if (const auto next = std::next(it); next != blocks_.end() && next->second.free &&
                                       next->second.segment == it->second.segment) {
    free_.erase({next->second.bytes, next->first});
    it->second.bytes += next->second.bytes;
    blocks_.erase(next);
  }
  if (it != blocks_.begin()) {
    const auto before = std::prev(it);
    if (before->second.free && before->second.segment == it->second.segment) {
      free_.erase({before->second.bytes, before->first});
      before->second.bytes += it->second.bytes;
      blocks_.erase(it);
      it = before;
    }
  }
  free_.emplace(it->second.bytes, it->first);
}

void Arena::free(CUdeviceptr at) noexcept {
  const auto it = blocks_.find(at);
  if (it == blocks_.end() || it->second.free) return;
  used_ -= it->second.bytes;
  set_free(it);
}

void Arena::trim(std::size_t keep_bytes) noexcept {
  for (auto it = blocks_.begin(); it != blocks_.end() && reserved_ > keep_bytes;) {
    Segment* s = it->second.segment;
    if (!it->second.free || it->second.bytes != s->bytes) {
      ++it;
      continue;
    }
    free_.erase({it->second.bytes, it->first});
    it = blocks_.erase(it);
    reserved_ -= s->bytes;
    drop_segment(s);
  }
}

void Arena::clear() noexcept {
  std::set<Segment*> segments;
  for (const auto& [at, b] : blocks_) segments.insert(b.segment);
  for (Segment* s : segments) drop_segment(s);
  blocks_.clear();
  free_.clear();
  reserved_ = used_ = 0;
}

Segment* Arena::segment_of(CUdeviceptr at) const noexcept {
  auto it = blocks_.upper_bound(at);
  if (it == blocks_.begin()) return nullptr;
  --it;
  return at < it->first + it->second.bytes ? it->second.segment : nullptr;
}

}  // namespace bulkhead::sim
