#include "sim/block_space.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <iterator>

#include "sim/state.h"

namespace bulkhead::sim {

// Twice the device, so that holes never end an allocation early.
std::size_t BlockSpace::span_bytes() const noexcept {
  return round_up(2 * machine.profile.unit_bytes(), block_);
}

void BlockSpace::share(int fd, std::uint64_t object) noexcept {
  fd_ = fd;
  object_ = object;
}

bool BlockSpace::open() noexcept {
  if (base_ != 0) return true;
  base_ = reserve_pages(span_bytes(), block_, 0);
  if (base_ == 0) return false;
  if (fd_ >= 0 && ::mmap(reinterpret_cast<void*>(base_), span_bytes(), PROT_NONE,
                         MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd_, 0) == MAP_FAILED) {
    return false;
  }
  holes_.emplace(base_, span_bytes());
  return true;
}

bool BlockSpace::charge(std::size_t bytes) noexcept {
  if (object_ == 0) return take(unit_, bytes);
  return resize_object(object_, reserved_ + bytes);
}

void BlockSpace::give_back(std::size_t bytes) noexcept {
  reserved_ -= bytes;
  if (object_ == 0) {
    give(unit_, bytes);
  } else {
    static_cast<void>(resize_object(object_, reserved_));
  }
}

bool BlockSpace::back(std::size_t first, std::size_t last) noexcept {
  if (blocks_.size() <= last) blocks_.resize(last + 1);
  std::size_t missing = 0;
  for (std::size_t i = first; i <= last; ++i) missing += blocks_[i].backed ? 0 : 1;
  if (missing != 0 && !charge(missing * block_)) return false;
  reserved_ += missing * block_;
  for (std::size_t i = first; i <= last; ++i) {
    if (blocks_[i].backed) continue;
    ::mprotect(reinterpret_cast<void*>(base_ + i * block_), block_, PROT_READ | PROT_WRITE);
    blocks_[i].backed = true;
  }
  return true;
}

CUdeviceptr BlockSpace::allocate(std::size_t bytes, std::size_t max_bytes) noexcept {
  bytes = round_up(bytes == 0 ? 1 : bytes, grain_);
  if (!open()) return 0;
  for (auto hole = holes_.begin(); hole != holes_.end(); ++hole) {
    if (hole->second < bytes) continue;
    const CUdeviceptr at = hole->first;
    const std::size_t first = (at - base_) / block_, last = (at - base_ + bytes - 1) / block_;
    std::size_t growth = 0;
    for (std::size_t i = first; i <= last; ++i) {
      growth += i < blocks_.size() && blocks_[i].backed ? 0 : block_;
    }
    if (max_bytes != 0 && growth != 0 && reserved_ + growth > max_bytes) continue;
    if (!back(first, last)) continue;  // a later hole may lie in blocks that are backed
    for (std::size_t i = first; i <= last; ++i) ++blocks_[i].users;
    const std::size_t rest = hole->second - bytes;
    holes_.erase(hole);
    if (rest != 0) holes_.emplace(at + bytes, rest);
    live_.emplace(at, bytes);
    used_ += bytes;
    return at;
  }
  return 0;
}

void BlockSpace::free(CUdeviceptr at) noexcept {
  const auto it = live_.find(at);
  if (it == live_.end()) return;
  const std::size_t bytes = it->second;
  live_.erase(it);
  used_ -= bytes;
  const std::size_t first = (at - base_) / block_, last = (at - base_ + bytes - 1) / block_;
  for (std::size_t i = first; i <= last; ++i) --blocks_[i].users;
  auto hole = holes_.emplace(at, bytes).first;
  if (const auto next = std::next(hole); next != holes_.end() && at + bytes == next->first) {
    hole->second += next->second;
    holes_.erase(next);
  }
  if (hole != holes_.begin()) {
    const auto before = std::prev(hole);
    if (before->first + before->second == hole->first) {
      before->second += hole->second;
      holes_.erase(hole);
    }
  }
}

void BlockSpace::trim(std::size_t keep_bytes) noexcept {
  for (std::size_t i = blocks_.size(); i-- != 0 && reserved_ > keep_bytes;) {
    Block& b = blocks_[i];
    if (!b.backed || b.users != 0) continue;
    void* at = reinterpret_cast<void*>(base_ + i * block_);
    if (fd_ < 0) {
      ::madvise(at, block_, MADV_DONTNEED);
    } else {
      ::fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(i * block_),
                  static_cast<off_t>(block_));
    }
    ::mprotect(at, block_, PROT_NONE);
    b.backed = false;
    give_back(block_);
  }
}

void BlockSpace::clear() noexcept {
  if (base_ != 0) unmap_pages(base_, span_bytes());
  if (reserved_ != 0 && object_ == 0) give_back(reserved_);  // an object goes with its last holder
  reserved_ = 0;
  base_ = 0;
  used_ = 0;
  blocks_.clear();
  live_.clear();
  holes_.clear();
}

}  // namespace bulkhead::sim
