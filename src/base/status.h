// Status: the one error value of the project. 16 bytes, no allocation, the text is a literal.
#pragma once
#include <cstdint>
#include <new>
#include <utility>

namespace bulkhead {

enum class Errc : std::uint16_t {
  kOk = 0,
  kIo,          // a system call failed; error_number() says how
  kUntrusted,   // a file or directory has the wrong owner, mode, type or link count
  kBadSize,     // a file is not the size its format fixes
  kBadMagic,    // not a file of ours
  kBadVersion,  // another major version
  kNotReady,    // being formatted by somebody else right now
  kNotFound,
  kExists,
  kFull,      // no free slot, no room on the device, no table entry
  kTooLarge,  // over a limit that was named
  kInvalid,   // malformed input
  kCorrupt,   // a value in a shared file is impossible
};

class [[nodiscard]] Status {
 public:
  constexpr Status() noexcept = default;
  constexpr Status(Errc code, int error_number, const char* text) noexcept
      : text_(text), errno_(error_number), code_(code) {}
  [[nodiscard]] constexpr bool ok() const noexcept { return code_ == Errc::kOk; }
  [[nodiscard]] constexpr Errc code() const noexcept { return code_; }
  [[nodiscard]] constexpr int error_number() const noexcept { return errno_; }
  [[nodiscard]] constexpr const char* text() const noexcept { return text_; }

 private:
  const char* text_ = "";
  std::int32_t errno_ = 0;
  Errc code_ = Errc::kOk;
};
static_assert(sizeof(Status) == 16);

// A value or why there is none. Move-only if T is. value access without ok() is a programming
// error.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) noexcept : has_(true) {
    ::new (&value_) T(std::move(value));
  }                                                    // NOLINT: implicit by design
  Result(Status status) noexcept : status_(status) {}  // NOLINT: implicit by design
  Result(Result&& other) noexcept : status_(other.status_), has_(other.has_) {
    if (has_) ::new (&value_) T(std::move(other.value_));
  }
  Result(const Result&) = delete;
  Result& operator=(const Result&) = delete;
  Result& operator=(Result&&) = delete;
  ~Result() {
    if (has_) value_.~T();
  }
  [[nodiscard]] bool ok() const noexcept { return has_; }
  [[nodiscard]] Status status() const noexcept { return status_; }
  T& operator*() noexcept { return value_; }
  T* operator->() noexcept { return &value_; }
  const T& operator*() const noexcept { return value_; }
  const T* operator->() const noexcept { return &value_; }

 private:
  Status status_{};
  union {
    T value_;
  };
  bool has_ = false;
};

}  // namespace bulkhead
