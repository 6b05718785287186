// Checks a received message, once, before anything in it is used (docs/formats/wire.md; invariant D4). Pure: no heap, no
// system call, any thread; libc only, for the preloaded library links it.
#pragma once
#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "wire/messages.h"

namespace bulkhead::wire {

inline constexpr std::uint64_t kMaxMemoryBytes = (1ull << 56) - 1;  // what a region can hold

// [a-z0-9][a-z0-9._-]{0,62}, zeros from its end to the field's.
[[nodiscard]] bool valid_name(const char (&name)[kNameBytes]) noexcept;
// `text` of `bytes` characters: its end, and nothing but zeros behind it, is within them. Before it anything but control characters.
[[nodiscard]] bool valid_text(const char* text, std::size_t bytes) noexcept;

// A record as somebody may send it. kInvalid, with the field's name as text. Limits of policy and of the node are not
// looked at.
enum class RecordUse : std::uint8_t {
  kRegister,  // the name may be empty; 1..16 devices
  kUpdate,    // named; 0..16 devices
};
[[nodiscard]] Status check_record(const TenantRecord& record, RecordUse use) noexcept;

// A request of `bytes` bytes at `message`, 8-byte aligned. kBadVersion: a well-formed header of another protocol, to be
// answered with that; kInvalid: anything else that is wrong, no answer.
[[nodiscard]] Status check_request(const void* message, std::size_t bytes) noexcept;
// A reply, whatever its result, to a request of this kind and sequence. kInvalid, kBadVersion. Every text in it ends
// within its field, and every count is covered by its length.
[[nodiscard]] Status check_reply(const void* message, std::size_t bytes, Kind kind,
                                 std::uint32_t sequence) noexcept;

// Fills the header of a message of type T. The rest is the caller's, zeroed before.
template <class T>
void begin(T& message, Kind kind, std::uint32_t sequence) noexcept {
  message.header =
      Header{kMagic, kProtocol, static_cast<std::uint16_t>(kind), sizeof(T), sequence, 0, 0, 0};
}
// Copies what fits of a text into a field of zeros; it always ends.
template <std::size_t N>
void put_text(char (&to)[N], const char* text) noexcept {
  std::size_t i = 0;
  for (; i + 1 < N && text[i] != '\0'; ++i) to[i] = text[i];
  for (; i < N; ++i) to[i] = '\0';
}

}  // namespace bulkhead::wire
