// BULKHEAD_STREAM_COMPUTE: shares of single streams under the tenant's (docs/compute.md, 'Streams').
//
//   SPEC  ITEM {"," ITEM}
//   ITEM  NUMBER%            each stream that is not named
//       | INDEX=NUMBER%      one stream, by the order in which the process's streams first launched: 1, 2, ...
// At most kMostNamed are named, none twice; no "+": nobody lends between streams. Libc only, no heap; any thread.
#pragma once
#include <cstdint>
#include <cstring>

#include "policy/compute_spec.h"

namespace bulkhead::policy::compute {

inline constexpr unsigned kMostNamed = 16;

struct StreamSpec {
  std::uint32_t every_x100 = 0;  // 0: those that are not named are free
  unsigned count = 0;
  struct Named {
    std::uint32_t index, x100;
  } named[kMostNamed] = {};
  [[nodiscard]] constexpr bool any() const noexcept { return every_x100 != 0 || count != 0; }
};

// What the stream of this number (from 1 on) may have, hundredths of a percent; 0: it is free.
[[nodiscard]] constexpr std::uint32_t share_of_stream(const StreamSpec& s,
                                                      std::uint32_t index) noexcept {
  for (unsigned i = 0; i < s.count; ++i)
    if (s.named[i].index == index) return s.named[i].x100;
  return s.every_x100;
}

namespace detail {
// One item of `length` characters. False: not one.
[[nodiscard]] inline bool add_item(const char* at, std::size_t length, StreamSpec& out) noexcept {
  char item[32];
  if (length == 0 || length >= sizeof item) return false;
  std::memcpy(item, at, length);
  item[length] = 0;
  const char* share = item;
  std::uint32_t index = 0;
  if (char* const equals = std::strchr(item, '=')) {
    for (const char* c = item; c != equals; ++c) {
      if (*c < '0' || *c > '9' || index > 99'999) return false;
      index = index * 10 + static_cast<std::uint32_t>(*c - '0');
    }
    if (index == 0) return false;
    share = equals + 1;
  }
  Share parsed;
  if (!parse_share(share, &parsed) || parsed.borrow) return false;
  if (share == item) {
    if (out.every_x100 != 0) return false;
    out.every_x100 = parsed.x100;
    return true;
  }
  for (unsigned i = 0; i < out.count; ++i)
    if (out.named[i].index == index) return false;
  if (out.count == kMostNamed) return false;
  out.named[out.count++] = {index, parsed.x100};
  return true;
}
}  // namespace detail

// False: not in the grammar.
[[nodiscard]] inline bool parse_streams(const char* text, StreamSpec& out) noexcept {
  out = {};
  for (const char* at = text;;) {
    const char* const comma = std::strchr(at, ',');
    const std::size_t length =
        comma == nullptr ? std::strlen(at) : static_cast<std::size_t>(comma - at);
    if (!detail::add_item(at, length, out)) return false;
    if (comma == nullptr) return true;
    at = comma + 1;
  }
}

}  // namespace bulkhead::policy::compute
