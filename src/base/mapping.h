// Mapping: owns one mmap()ed range. Move-only; unmaps when destroyed.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <utility>

namespace bulkhead {

class Mapping {
 public:
  constexpr Mapping() noexcept = default;
  constexpr Mapping(void* at, std::size_t bytes) noexcept : at_(at), bytes_(bytes) {}
  Mapping(Mapping&& other) noexcept
      : at_(std::exchange(other.at_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    if (this != &other) {
      reset();
      at_ = std::exchange(other.at_, nullptr);
      bytes_ = std::exchange(other.bytes_, 0);
    }
    return *this;
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() { reset(); }
  [[nodiscard]] bool ok() const noexcept { return at_ != nullptr; }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
  template <class T>
  [[nodiscard]] T* as() const noexcept {
    return static_cast<T*>(at_);
  }
  // Gives the range up without unmapping it: for a mapping that lives as long as the process.
  [[nodiscard]] void* release() noexcept {
    bytes_ = 0;
    return std::exchange(at_, nullptr);
  }
  void reset() noexcept {
    if (at_ != nullptr) ::munmap(at_, bytes_);
    at_ = nullptr;
    bytes_ = 0;
  }

 private:
  void* at_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace bulkhead
