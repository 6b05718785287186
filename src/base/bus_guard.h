// A process that maps files which others may shrink survives their shrinking: reading past the end of
// a mapped file is SIGBUS (mmap(2)), and named files on tmpfs cannot be sealed.
//
// guard() takes a mapping under protection. On a fault inside it (BUS_ADRERR: beyond the end of the
// file, or no room for its page) the whole mapping is replaced, at its place, by private zero pages,
// the range is marked, and execution goes on: it reads zeros and writes for nobody. The whole and not
// one page, so that one fault is all a file can cause and the process's number of mappings never
// grows. Whoever used the range asks faulted() before it believes what it read.
//
// The first guard() installs the process's SIGBUS handler, for good. Faults elsewhere go to the handler
// that was there before, or end the process as without us. Limits: a thread that blocks SIGBUS dies of
// a fault (the kernel asks no handler then); a handler that others install later must pass on what is
// not theirs; a memory error reported by the hardware is not a shrunken file and is passed on.
// For supervisors and daemons. Never for the library inside a tenant's program: that program's signal
// handlers are its own, and it hurts nobody else by shrinking its own region.
#pragma once
#include <cstddef>
#include <utility>

#include "base/status.h"

namespace bulkhead {

inline constexpr unsigned kMaxGuarded = 1088;  // 1,024 tenants, and some of the process's own

// Owns one entry of the table. Release it before the range is unmapped, and while no other thread uses
// the range (as munmap itself asks).
class GuardedRange {
 public:
  constexpr GuardedRange() noexcept = default;
  GuardedRange(GuardedRange&& other) noexcept : entry_(std::exchange(other.entry_, -1)) {}
  GuardedRange& operator=(GuardedRange&& other) noexcept {
    if (this != &other) {
      reset();
      entry_ = std::exchange(other.entry_, -1);
    }
    return *this;
  }
  GuardedRange(const GuardedRange&) = delete;
  GuardedRange& operator=(const GuardedRange&) = delete;
  ~GuardedRange() { reset(); }
  [[nodiscard]] bool ok() const noexcept { return entry_ >= 0; }
  // Whether the mapping was replaced by zeros. Any thread; true is for ever.
  [[nodiscard]] bool faulted() const noexcept;
  void reset() noexcept;

 private:
  friend Result<GuardedRange> guard(void* at, std::size_t bytes) noexcept;
  int entry_ = -1;
};

// Guards the mapping [at, at + bytes): `at` on a page boundary, `bytes` as it was mapped (a part of a
// page counts as the page). Any thread; no heap. kInvalid: not such a range; kFull: kMaxGuarded are
// in use; kIo: the handler cannot be installed.
[[nodiscard]] Result<GuardedRange> guard(void* at, std::size_t bytes) noexcept;

}  // namespace bulkhead
