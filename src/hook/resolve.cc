#include "hook/resolve.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <string_view>

#include "hook/driver.h"

namespace bulkhead::hook {
namespace {

struct Name {
  std::string_view name;
  std::uint16_t hook;  // which HOOK line
};
constexpr Name kNames[] = {
#define BH_HOOK(name, since, family, ...) {#name, 0},
#include "abi/cuda.def"
#define BH_HOOK(name, since, family, ...) {#name, 0},
#include "abi/nvml.def"
};
constexpr std::size_t kHooks = std::size(kNames);
void* const kOurs[] = {
#define BH_HOOK(name, since, family, ...) reinterpret_cast<void*>(&::name),
#include "abi/cuda.def"
#define BH_HOOK(name, since, family, ...) reinterpret_cast<void*>(&::name),
#include "abi/nvml.def"
};
static_assert(std::size(kOurs) == kHooks);

// The names in order, for a binary search.
constexpr auto kSorted = [] {
  std::array<Name, kHooks> all{};
  for (std::size_t i = 0; i < kHooks; ++i) all[i] = {kNames[i].name, static_cast<std::uint16_t>(i)};
  std::sort(all.begin(), all.end(), [](const Name& a, const Name& b) { return a.name < b.name; });
  return all;
}();

const Name* lower(std::string_view name) noexcept {
  return std::lower_bound(kSorted.begin(), kSorted.end(), name,
                          [](const Name& a, std::string_view b) { return a.name < b; });
}

// True if `rest` is what follows a base name: [_v<digits>][_ptsz|_ptds].
bool is_suffix(std::string_view rest) noexcept {
  if (rest.starts_with("_v")) {
    rest.remove_prefix(2);
    if (rest.empty()) return false;
    while (!rest.empty() && rest[0] >= '0' && rest[0] <= '9') rest.remove_prefix(1);
  }
  return rest.empty() || rest == "_ptsz" || rest == "_ptds";
}

// Real address -> ours, open addressing. An entry is written once, `ours` before `real`.
struct Pair {
  std::atomic<const void*> real{nullptr};
  std::atomic<void*> ours{nullptr};
};
constexpr unsigned kPlacesLog2 = 11;
static_assert(kHooks * 3 < 1u << kPlacesLog2);
constinit Pair places[1u << kPlacesLog2]{};

unsigned first_place(const void* p) noexcept {
  const auto bits = reinterpret_cast<std::uintptr_t>(p) >> 4;  // functions are 16-byte aligned
  return static_cast<unsigned>((bits * 0x9e37'79b9'7f4a'7c15) >> (64 - kPlacesLog2));
}

}  // namespace

void add_substitute(void* real, void* ours) noexcept {
  for (unsigned i = 0, at = first_place(real); i < std::size(places); ++i) {
    Pair& place = places[(at + i) % std::size(places)];
    const void* expected = nullptr;
    // acq_rel: nothing but the word itself is published; `ours` below has its own release
    if (place.real.compare_exchange_strong(expected, real, std::memory_order_acq_rel)) {
      place.ours.store(ours, std::memory_order_release);  // pairs with substitute()
      return;
    }
    if (expected == real) {
      void* none = nullptr;  // another thread is between its two stores, or done: same value
      // acq_rel: pairs with the same in another thread and the loads of readers
      place.ours.compare_exchange_strong(none, ours, std::memory_order_acq_rel);
      return;
    }
  }
}

void* substitute(const void* real) noexcept {
  for (unsigned i = 0, at = first_place(real); i < std::size(places); ++i) {
    Pair& place = places[(at + i) % std::size(places)];
    const void* key = place.real.load(std::memory_order_acquire);  // pairs with add_substitute()
    if (key == nullptr) return nullptr;
    if (key == real) return place.ours.load(std::memory_order_acquire);  // as above
  }
  return nullptr;
}

void* export_of(const char* name) noexcept {
  const Name* found = lower(name);
  return found != kSorted.end() && found->name == name ? kOurs[found->hook] : nullptr;
}

bool hooked_name(const char* text) noexcept {
  const std::string_view name{text};
  // a hooked name equals `name` plus a suffix: they follow `name` in order
  for (const Name* n = lower(name); n != kSorted.end() && n->name.starts_with(name); ++n) {
    if (is_suffix(n->name.substr(name.size()))) return true;
  }
  return false;
}

bool moving_name(const char* text) noexcept {
  constexpr std::string_view kBeginnings[] = {"cuMemcpy",      "cuMemset",      "cuMemPrefetch",
                                              "cuMemBatch",    "cuMemDiscardA", "cuStreamWrite",
                                              "cuStreamBatch", "cuGraphLaunch"};
  const std::string_view name{text};
  for (const std::string_view beginning : kBeginnings) {
    if (name.starts_with(beginning)) return true;
  }
  return false;
}

}  // namespace bulkhead::hook
