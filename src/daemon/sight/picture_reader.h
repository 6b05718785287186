// A copy of the picture, taken between two equal even values of its sequence word. The writer may die while it writes:
// every loop here has a bound, and a picture that stopped changing is said to be old.
#pragma once
#include <cstdint>
#include <memory>

#include "base/mapping.h"
#include "base/status.h"
#include "wire/picture.h"

namespace bulkhead::daemon {

class PictureReader {
 public:
  static constexpr std::uint64_t kStale_ns = 5'000'000'000;

  // Maps read-only; the descriptor may be closed afterwards. kBadSize, kBadMagic (not one of this version), kIo.
  Status open(int fd);
  // Takes a copy if there is a new one. True: copy() has changed. Call it at least once a second.
  bool refresh(std::uint64_t mono_ns);
  // The last whole copy; counts are clamped, every text ends. Null before the first.
  [[nodiscard]] const wire::Picture* copy() const { return has_ ? copy_.get() : nullptr; }
  [[nodiscard]] bool fresh(std::uint64_t mono_ns) const;
  [[nodiscard]] std::uint64_t torn_reads() const { return torn_; }

 private:
  bool take();

  Mapping map_;
  std::unique_ptr<wire::Picture> copy_;
  std::unique_ptr<wire::Picture> next_;
  std::uint64_t sequence_ = 0;
  std::uint64_t changed_ns_ = 0;
  std::uint64_t torn_ = 0;
  bool has_ = false;
};

}  // namespace bulkhead::daemon
