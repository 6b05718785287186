// Which NCCL a caller means. The loader's own order decides: what the caller's object and its dependencies have, then what
// comes after us in the global scope, then the copy that the program asked dlsym for, then the only one that is loaded.
#include <dlfcn.h>
#include <link.h>

#include <atomic>
#include <cstring>

#include "hook/loader.h"
#include "hook/nccl.h"
#include "hook/private_lock.h"
#include "hook/process.h"
#include "hook/resolve.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr unsigned kCopies = 4;  // further ones are not forwarded to; nobody has two
constinit NcclCalls copies[kCopies]{};
constinit std::atomic<unsigned> copy_count{0};
constinit std::atomic<const NcclCalls*> asked_for{
    nullptr};  // the copy that dlsym handed out ours for
constinit PrivateLock finding{};

// Caller -> copy: user addresses have 47 bits, copies 3.
constexpr unsigned kPlaces = 64;
constinit std::atomic<std::uint64_t> known[kPlaces]{};

struct Export {
  const char* name;
  void* ours;
};
const Export kExports[] = {
#define BH_HOOK(name, since, family, ...) {#name, reinterpret_cast<void*>(&::name)},
#include "abi/nccl.def"
};

void* our_export(const char* name) noexcept {
  for (const Export& e : kExports)
    if (std::strcmp(e.name, name) == 0) return e.ours;
  return nullptr;
}
bool is_ours(const void* at) noexcept {
  for (const Export& e : kExports)
    if (e.ours == at) return true;
  return false;
}

// A handle of the object that holds `at`, for look-ups in it and its dependencies; null: the program itself.
void* handle_of(const void* at, const void** base) noexcept {
  Dl_info info{};
  if (::dladdr(const_cast<void*>(at), &info) == 0 || info.dli_fname == nullptr) return nullptr;
  if (base != nullptr) *base = info.dli_fbase;
  return ::dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
}

// The copy that `function` (of that library) belongs to; made if it is new. Under `finding`.
const NcclCalls* copy_of(void* function) noexcept {
  const void* base = nullptr;
  void* const library = handle_of(function, &base);
  if (library == nullptr || base == nullptr) return nullptr;
  const unsigned n = copy_count.load(kRelaxed);  // under the lock
  for (unsigned i = 0; i < n; ++i)
    if (copies[i].base == base) return &copies[i];
  if (n == kCopies) return nullptr;
  NcclCalls& c = copies[n];
  void* at = nullptr;
#define BH_HOOK(name, since, family, ...) \
  at = real_dlsym(library, #name);        \
  if (at != nullptr && !is_ours(at)) std::memcpy(&c.name, &at, sizeof at);
#include "abi/nccl.def"
  c.base = base;
  copy_count.store(n + 1, std::memory_order_release);  // pairs with nccl_calls()
  return &c;
}

struct Loaded {
  unsigned count = 0;
  char path[4096];
};
int look_at(dl_phdr_info* info, std::size_t, void* out) noexcept {
  auto& found = *static_cast<Loaded*>(out);
  const char* const name = info->dlpi_name == nullptr ? "" : info->dlpi_name;
  const char* const slash = std::strrchr(name, '/');
  if (std::strncmp(slash == nullptr ? name : slash + 1, "libnccl.so", 10) != 0) return 0;
  if (++found.count == 1 && std::strlen(name) < sizeof found.path)
    std::memcpy(found.path, name, std::strlen(name) + 1);
  return 0;
}

constexpr const char* kProbe = "ncclCommInitRank";  // every NCCL 2 has it

// Under `finding`.
const NcclCalls* find(const void* caller) noexcept {
  const auto take = [](void* function) -> const NcclCalls* {
    return function == nullptr || is_ours(function) ? nullptr : copy_of(function);
  };
  if (void* const own = handle_of(caller, nullptr)) {
    if (const NcclCalls* c = take(real_dlsym(own, kProbe))) return c;
  }
  if (const NcclCalls* c = take(real_dlsym(RTLD_NEXT, kProbe))) return c;
  if (const NcclCalls* c = asked_for.load(kRelaxed)) return c;  // under the lock
  static constinit Loaded loaded{};                             // as above
  loaded.count = 0;
  ::dl_iterate_phdr(look_at, &loaded);
  if (loaded.count != 1) return nullptr;
  void* const library = ::dlopen(loaded.path, RTLD_LAZY | RTLD_NOLOAD);
  return library == nullptr ? nullptr : take(real_dlsym(library, kProbe));
}

[[gnu::cold, gnu::noinline]] const NcclCalls* find_and_note(
    const void* caller, std::atomic<std::uint64_t>& place) noexcept {
  const Undisturbed keep;
  const Held held{finding};
  const NcclCalls* const c = find(caller);
  if (c != nullptr) {
    const auto bits = static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(caller));
    // release pairs with nccl_calls(): the copy is written
    place.store(bits << 3 | static_cast<std::uint64_t>(c - copies + 1), std::memory_order_release);
  }
  return c;
}

}  // namespace

const NcclCalls* nccl_calls(const void* caller) noexcept {
  const auto bits = static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(caller));
  std::atomic<std::uint64_t>& place = known[bits * 0x9E37'79B9'7F4A'7C15ull >> 58];
  static_assert(kPlaces == 64 && kCopies < 8);
  const std::uint64_t word = place.load(std::memory_order_acquire);  // pairs with find_and_note()
  if (word >> 3 == bits) [[likely]]
    return &copies[(word & 7) - 1];
  return find_and_note(caller, place);
}

void* nccl_answer(const char* name, void* found, const void* caller) noexcept {
  void* const ours = our_export(name);
  if (ours == nullptr || found == nullptr) return found;
  if (found == ours) return nccl_calls(caller) != nullptr ? ours : nullptr;
  if (!wanted()) return found;
  const Undisturbed keep;
  const Held held{finding};
  const NcclCalls* const c = copy_of(found);
  const NcclCalls* const before = asked_for.load(kRelaxed);  // under the lock
  // Another copy than the one that callers without one of their own are sent to: not ours to mix.
  if (c == nullptr || (before != nullptr && before != c)) return found;
  asked_for.store(c, kRelaxed);  // as above
  return ours;
}

}  // namespace bulkhead::hook
