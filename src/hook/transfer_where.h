// On which device the two sides of a transfer are, and which stream carries it. docs/compliance/transfers.md, "Which device".
//
// Any thread, lock-free. A side costs a load or nothing; an address that is seen for the first time costs a question to
// the driver.
#pragma once
#include <cstdint>

#include "hook/copies.h"
#include "hook/transfer.h"

namespace bulkhead::hook {

struct Side {
  enum class Kind : std::uint8_t { kHost, kDevice, kUnknown };
  std::uint64_t at = 0;
  Kind kind = Kind::kUnknown;
  std::uint8_t device = abi::kRemoteDevice;
};

[[nodiscard]] inline Side on_host(const void* p) noexcept {
  return {reinterpret_cast<std::uintptr_t>(p), Side::Kind::kHost, abi::kHostDevice};
}
// An address that may be anything.
[[nodiscard]] Side anywhere(CUdeviceptr p) noexcept;
// Of one that the function says is a device's, in a process that sees several.
[[nodiscard]] std::uint8_t device_of_some(CUdeviceptr p) noexcept;
// Memory that the function says is a device's.
[[nodiscard]] inline Side on_device(CUdeviceptr p) noexcept {
  return {p, Side::Kind::kDevice, process.device_count == 1 ? std::uint8_t{0} : device_of_some(p)};
}
[[nodiscard]] Side in_array(CUarray array) noexcept;
// Memory of a context's device; null: the current one's.
[[nodiscard]] Side in_context(CUdeviceptr p, CUcontext context) noexcept;
// Device::number of the current context, or of an ordinal or location; kRemoteDevice: none we know.
[[nodiscard]] std::uint8_t current_device() noexcept;
[[nodiscard]] std::uint8_t device_number(CUdevice ordinal) noexcept;
[[nodiscard]] std::uint8_t location_number(const CUmemLocation& where) noexcept;

[[nodiscard, gnu::always_inline]] inline Direction direction_between(const Side& from,
                                                                     const Side& to) noexcept {
  using enum Side::Kind;
  if (from.kind == kUnknown || to.kind == kUnknown) return Direction::kUnknown;
  if (from.kind == kHost) {
    return to.kind == kHost ? Direction::kHostToHost : Direction::kHostToDevice;
  }
  if (to.kind == kHost) return Direction::kDeviceToHost;
  if (from.device == abi::kRemoteDevice || to.device == abi::kRemoteDevice)
    return Direction::kUnknown;
  return from.device == to.device ? Direction::kWithinDevice : Direction::kBetweenDevices;
}
// null, CU_STREAM_LEGACY (1) and CU_STREAM_PER_THREAD (2)
[[nodiscard]] inline bool is_default_stream(CUstream stream) noexcept {
  return reinterpret_cast<std::uintptr_t>(stream) <= 2;
}
// 0: a default stream; kManyStreams: the books are full.
[[nodiscard]] std::uint16_t stream_ordinal(CUstream stream) noexcept;
void stream_ordinal_gone(CUstream stream) noexcept;

// The parts of an event that all transfers share.
inline constexpr std::uint64_t kMostMoveBytes = (std::uint64_t{1} << 48) - 1;
[[nodiscard]] constexpr std::uint64_t move_bytes(std::uint64_t bytes) noexcept {
  return bytes < kMostMoveBytes ? bytes : kMostMoveBytes;
}
[[nodiscard]] inline std::uint64_t move_product(std::uint64_t a, std::uint64_t b,
                                                std::uint64_t c = 1) noexcept {
  std::uint64_t n = 0;
  if (__builtin_mul_overflow(a, b, &n) || __builtin_mul_overflow(n, c, &n)) return kMostMoveBytes;
  return move_bytes(n);
}
[[nodiscard, gnu::always_inline]] inline AuditEvent copy_event(AuditOp op, const Side& from,
                                                               const Side& to,
                                                               std::uint64_t bytes) noexcept {
  AuditEvent e;
  e.op = op;
  e.direction = direction_between(from, to);
  e.source_device = from.device;
  e.destination_device = to.device;
  e.source = from.at;
  e.destination = to.at;
  e.bytes = move_bytes(bytes);
  return e;
}
[[nodiscard, gnu::always_inline]] inline AuditEvent set_event(AuditOp op, const Side& to,
                                                              std::uint64_t bytes) noexcept {
  AuditEvent e;
  e.op = op;
  e.direction = Direction::kSet;
  e.destination_device = to.device;
  e.destination = to.at;
  e.bytes = move_bytes(bytes);
  return e;
}
inline void add_shape(AuditEvent& e, std::uint64_t width, std::uint64_t height, std::uint64_t depth,
                      std::uint64_t pitch) noexcept {
  constexpr std::uint64_t kMost = 0xffff'ffff;
  e.width_bytes = static_cast<std::uint32_t>(width < kMost ? width : kMost);
  e.height = static_cast<std::uint32_t>(height < kMost ? height : kMost);
  e.depth = depth;
  e.pitch = move_bytes(pitch);
}

// As what a transfer is counted against the tenant. `device` is none of ours: it is not.
struct Counted {
  std::uint8_t device;
  CopyDirection direction;
};
[[nodiscard, gnu::always_inline]] inline Counted counted_as(const AuditEvent& e) noexcept {
  switch (e.direction) {
    case Direction::kHostToDevice:
      return {e.destination_device, CopyDirection::kToDevice};
    case Direction::kDeviceToHost:
      return {e.source_device, CopyDirection::kToHost};
    case Direction::kWithinDevice:
      return {e.destination_device, CopyDirection::kWithin};
    case Direction::kBetweenDevices:
      return {e.source_device, CopyDirection::kPeer};
    case Direction::kSet:
      return {e.destination_device, CopyDirection::kSet};
    case Direction::kUnknown:  // by the side that is known
      if (e.destination_device < kMaxDevices)
        return {e.destination_device, CopyDirection::kToDevice};
      if (e.source_device < kMaxDevices) return {e.source_device, CopyDirection::kToHost};
      return {current_device(), CopyDirection::kWithin};
    case Direction::kNone:
    case Direction::kHostToHost:
      break;
  }
  return {abi::kHostDevice, CopyDirection::kWithin};
}
// Before the driver is called: may wait, if the tenant's copies have a rate.
inline void move_admit(const AuditEvent& e) noexcept {
  const Counted as = counted_as(e);
  if (as.device < kMaxDevices) static_cast<void>(copy_admit(as.device, e.bytes, as.direction));
}
inline void move_counted(const AuditEvent& e) noexcept {
  const Counted as = counted_as(e);
  if (as.device < kMaxDevices) note_copy(as.device, e.bytes, as.direction);
}

// Where a call is queued.
[[nodiscard]] constexpr On at_once() noexcept { return {}; }
[[nodiscard]] constexpr On at_once_own() noexcept { return {nullptr, Twin::kPerThread, false}; }
[[nodiscard]] inline On queued(CUstream s) noexcept { return {s, Twin::kPlain, true}; }
[[nodiscard]] inline On queued_own(CUstream s) noexcept { return {s, Twin::kPerThread, true}; }

}  // namespace bulkhead::hook
