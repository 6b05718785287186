// What the environment asks of this process. Read once, at the first call through any door, and
// never again: what the program does to its environment later changes nothing.
#pragma once
#include <cstddef>
#include <cstdint>

#include "hook/hook.h"
#include "policy/compute/stream_spec.h"
#include "policy/size.h"

namespace bulkhead::hook {

struct Settings {
  bool secure = false;      // AT_SECURE: nothing else was read, the library does nothing at all
  bool wanted = false;      // a tenant or a limit is asked for
  bool open_fault = false;  // BULKHEAD_ON_FAULT=open; the default is deny
  bool malformed = false;   // a value that is not in its grammar: a fault
  bool log_stderr = false;  // BULKHEAD_LOG=stderr
  std::uint8_t audit =
      0;  // BULKHEAD_AUDIT: 0 off, 1 observe, 2 enforce; the node page may say more
  bool has_limits = false;           // `every` or `by_index` holds something
  char tenant[64] = {};              // BULKHEAD_TENANT; "default" if only limits are given
  policy::MemorySpec spec{};         // BULKHEAD_MEMORY
  bool has_index[kMaxDevices] = {};  // BULKHEAD_MEMORY_<i>
  policy::Size by_index[kMaxDevices]{};
  policy::compute::StreamSpec streams{};  // BULKHEAD_STREAM_COMPUTE
  std::uint32_t stream_sms_x100 = 0;      // BULKHEAD_STREAM_SMS; 0: not asked for
  policy::Grammar grammar = policy::Grammar::kOurs;
};

[[nodiscard]] const Settings& settings() noexcept;

// The size asked for on the visible device `ordinal`; null: none (no grant). `uuid_text`: GPU-...,
// as uuid_text() below writes it, or MIG-....
[[nodiscard]] const policy::Size* size_asked(const Settings& s, unsigned ordinal,
                                             const char* uuid_text) noexcept;
// A size in bytes on a device of `total_bytes`. Zero in HAMi's grammar is no limit: the whole
// device.
[[nodiscard]] std::uint64_t size_bytes(const policy::Size& size,
                                       std::uint64_t total_bytes) noexcept;

// "GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx" and its end; and back, MIG- too (the library itself
// sees no difference: the driver names a MIG instance by the same 16 bytes). False: malformed.
inline constexpr std::size_t kUuidText = 41;
void uuid_text(const CUuuid& uuid, char (&out)[kUuidText]) noexcept;
[[nodiscard]] bool parse_uuid(const char* text, CUuuid& out) noexcept;

}  // namespace bulkhead::hook
