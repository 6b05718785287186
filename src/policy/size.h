// Sizes as people write them: what --memory, BULKHEAD_MEMORY* and HAMi's variables hold.
//
//   SIZE  NUMBER[UNIT]  or  NUMBER%          NUMBER: digits[.digits], decimal, at most 6 after the
//   point UNIT  B (also none) | KiB MiB GiB TiB, Ki Mi Gi Ti, k m g t: powers of 1024
//         | kB MB GB TB: powers of 1000       case does not matter; one space may precede the unit
//   SPEC  SIZE | [SIZE,]GPU=SIZE[,GPU=SIZE...]   GPU: index (0..), or a prefix of GPU-... or
//   MIG-...
//
// A leading zero is decimal. A fraction of a byte is dropped. Percent: over 0, at most 100, two
// digits after the point. HAMi's grammar (its reader is strtoul base 0 plus one letter) is the same
// but for zero, which means "no limit" there and is refused in ours; texts HAMi misreads without a
// word (10Gi and 10GB as 10 bytes, 1.5g as 1 GiB, 010g as octal) mean what they say.
// No heap, no locale, no errno; any thread.
#pragma once
#include <cstddef>
#include <cstdint>

namespace bulkhead::policy {

enum class Grammar : std::uint8_t { kOurs, kHami };

struct Size {
  std::uint64_t bytes = 0;         // if not is_percent
  std::uint32_t percent_x100 = 0;  // hundredths of a percent, 1..10000, if is_percent
  bool is_percent = false;
};

// False: empty, negative, junk, no such unit, over 2^64-1, a percent outside its range, or (ours)
// zero.
[[nodiscard]] bool parse_size(const char* text, Grammar grammar, Size* out) noexcept;

inline constexpr unsigned kMaxSpecGpus = 16;
inline constexpr std::size_t kMaxGpuText = 48;  // with its end; a UUID's text has 40 characters

struct MemorySpec {
  struct Entry {
    char gpu[kMaxGpuText];  // index or UUID prefix, as written
    Size size;
  };
  Size every{};            // for each visible GPU that no entry names
  bool has_every = false;  // false: GPUs without an entry are not granted
  unsigned count = 0;
  Entry entries[kMaxSpecGpus]{};
};

// False: any part is malformed, a GPU is named twice in the same words, or there are over 16.
[[nodiscard]] bool parse_memory_spec(const char* text, Grammar grammar, MemorySpec* out) noexcept;
// The size for the visible GPU `index` with UUID text "GPU-..."; null: none is given. An index
// entry goes before a UUID prefix, and that before `every`.
[[nodiscard]] const Size* size_for(const MemorySpec& spec, unsigned index,
                                   const char* uuid) noexcept;
// True if `gpu` (an entry's text) names that GPU. Case matters only in neither form.
[[nodiscard]] bool gpu_matches(const char* gpu, unsigned index, const char* uuid) noexcept;

inline constexpr std::size_t kSizeText = 32;
// For people: binary units, at most two digits after the point, rounded down: "10 GiB", "517.99
// MiB".
const char* format_size(std::uint64_t bytes, char (&out)[kSizeText]) noexcept;
// For arithmetic and for reading back: the largest binary unit that divides it: "10GiB",
// "10241MiB", "7B".
const char* format_exact(std::uint64_t bytes, char (&out)[kSizeText]) noexcept;

}  // namespace bulkhead::policy
