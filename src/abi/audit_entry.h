// The audit entry, format 1: layout only (docs/formats/entry.md). The library fills one in a lane before it calls the
// driver; the daemon copies it out, checks it, and makes it a leaf of the log.
#pragma once
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace bulkhead::abi {

inline constexpr std::uint8_t kEntryVersion = 1;
inline constexpr std::uint8_t kRecordByte =
    0x1f;  // first byte of a long record: kRecord of version 1
inline constexpr std::size_t kMaxRecordBytes = 65'534;

enum class EntryKind : std::uint8_t {
  kTransfer = 1,
  kGeometry = 2,
  kMap = 3,
  kFailure = 4,
  kMark = 5,
  kGap = 6,
  kRecord = 15,
};
enum class AuditOp : std::uint8_t {
  kNone = 0,
#define BH_AUDIT_OP(code, name) k_##name = code,
#include "abi/audit_ops.def"
};
enum class Direction : std::uint8_t {
  kNone = 0,
  kHostToDevice = 1,
  kDeviceToHost = 2,
  kWithinDevice = 3,
  kBetweenDevices = 4,
  kSet = 5,
  kHostToHost = 6,
  kUnknown = 7,
};
enum class Decision : std::uint8_t { kAllowed = 0, kDenied = 1, kObserved = 2, kViolation = 3 };
enum EntryFlag : std::uint8_t { kAsynchronous = 1, kBatchMember = 2, kGraphReplay = 4 };
enum class DenyReason : std::uint8_t {
  kNone = 0,
  kNoGrant = 1,
  kExpired = 2,
  kNotYetValid = 3,
  kRevoked = 4,
  kDirection = 5,
  kDevice = 6,
  kRange = 7,
  kBytes = 8,
  kForeign = 9,
  kLaneFull = 10,
  kNoLane = 11,
  kClock = 12,
  kMalformed = 13,
};
inline constexpr std::uint8_t kHostDevice = 0xff;
inline constexpr std::uint8_t kRemoteDevice = 0xfe;
inline constexpr std::uint16_t kManyStreams = 0xffff;

// Its words lie at any address: copy one before anything refers to it.
#pragma pack(push, 1)
struct AuditEntry {
  std::uint8_t version_kind;
  std::uint8_t operation;
  std::uint8_t direction_decision_flags;
  std::uint8_t reason;
  std::uint32_t session;
  std::uint32_t grant;
  std::uint32_t sequence_low;
  std::uint16_t sequence_high;
  std::uint16_t lane;
  std::uint64_t utc_ns;
  std::uint64_t source;
  std::uint64_t destination;
  std::uint32_t bytes_low;
  std::uint16_t bytes_high;
  std::uint8_t source_device;
  std::uint8_t destination_device;
  std::uint16_t stream;
};
#pragma pack(pop)

static_assert(sizeof(AuditEntry) == 54 && alignof(AuditEntry) == 1);
static_assert(std::is_standard_layout_v<AuditEntry> && std::is_trivial_v<AuditEntry>);
static_assert(offsetof(AuditEntry, session) == 4 && offsetof(AuditEntry, sequence_low) == 12);
static_assert(offsetof(AuditEntry, utc_ns) == 20 && offsetof(AuditEntry, source) == 28);
static_assert(offsetof(AuditEntry, bytes_low) == 44 && offsetof(AuditEntry, stream) == 52);

constexpr std::uint8_t version_kind(EntryKind kind) noexcept {
  return static_cast<std::uint8_t>(kEntryVersion << 4 | static_cast<std::uint8_t>(kind));
}
constexpr EntryKind kind_of(const AuditEntry& e) noexcept {
  return static_cast<EntryKind>(e.version_kind & 15);
}
constexpr std::uint8_t pack_verdict(Direction direction, Decision decision,
                                    std::uint8_t flags) noexcept {
  return static_cast<std::uint8_t>(static_cast<std::uint8_t>(direction) |
                                   static_cast<std::uint8_t>(decision) << 3 | flags << 5);
}
constexpr Direction direction_of(const AuditEntry& e) noexcept {
  return static_cast<Direction>(e.direction_decision_flags & 7);
}
constexpr Decision decision_of(const AuditEntry& e) noexcept {
  return static_cast<Decision>(e.direction_decision_flags >> 3 & 3);
}
constexpr std::uint8_t flags_of(const AuditEntry& e) noexcept {
  return static_cast<std::uint8_t>(e.direction_decision_flags >> 5);
}
constexpr std::uint64_t sequence_of(const AuditEntry& e) noexcept {
  return std::uint64_t{e.sequence_high} << 32 | e.sequence_low;
}
constexpr void set_sequence(AuditEntry& e, std::uint64_t sequence) noexcept {
  e.sequence_low = static_cast<std::uint32_t>(sequence);
  e.sequence_high = static_cast<std::uint16_t>(sequence >> 32);
}
constexpr std::uint64_t bytes_of(const AuditEntry& e) noexcept {
  return std::uint64_t{e.bytes_high} << 32 | e.bytes_low;
}
constexpr void set_bytes(AuditEntry& e, std::uint64_t bytes) noexcept {  // < 2^48
  e.bytes_low = static_cast<std::uint32_t>(bytes);
  e.bytes_high = static_cast<std::uint16_t>(bytes >> 32);
}
// An entry as the words that a producer stores: each field of it once, but for those that the daemon writes.
struct EntryWords {
  std::uint32_t head;  // entry_head()
  std::uint32_t grant;
  std::uint64_t utc_ns;
  std::uint64_t source;
  std::uint64_t destination;
  std::uint64_t where;  // entry_where()
  std::uint16_t stream;
};
constexpr std::uint32_t entry_head(EntryKind kind, AuditOp op, Direction direction,
                                   Decision decision, std::uint8_t flags,
                                   DenyReason reason) noexcept {
  return version_kind(kind) | static_cast<std::uint32_t>(op) << 8 |
         std::uint32_t{pack_verdict(direction, decision, flags)} << 16 |
         static_cast<std::uint32_t>(reason) << 24;
}
constexpr std::uint64_t entry_where(std::uint64_t bytes, std::uint8_t source_device,
                                    std::uint8_t destination_device) noexcept {  // bytes < 2^48
  return bytes | std::uint64_t{source_device} << 48 | std::uint64_t{destination_device} << 56;
}
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);
[[gnu::always_inline]] inline void put_entry(AuditEntry& to, const EntryWords& w,
                                             std::uint64_t sequence) noexcept {
  const auto put = [&to](std::size_t offset, auto word) {
    __builtin_memcpy(reinterpret_cast<unsigned char*>(&to) + offset, &word, sizeof word);
  };
  put(0, std::uint64_t{w.head});  // session 0
  put(8, std::uint64_t{w.grant} | sequence << 32);
  put(16, static_cast<std::uint32_t>(sequence >> 32 & 0xffff));  // lane 0
  put(20, w.utc_ns);
  put(28, w.source);
  put(36, w.destination);
  put(44, w.where);
  put(52, w.stream);
}
// "cuMemcpyHtoDAsync", or null.
constexpr const char* name_of(AuditOp op) noexcept {
  switch (op) {
#define BH_AUDIT_OP(code, name) \
  case AuditOp::k_##name:       \
    return #name;
#include "abi/audit_ops.def"
    case AuditOp::kNone:
      break;
  }
  return nullptr;
}

}  // namespace bulkhead::abi
