// Which functions are collectives: by name, asked once a handle. docs/compute.md, 'Collectives'.
#include <cstring>

#include "hook/compute.h"
#include "hook/compute_books.h"
#include "hook/compute_quick.h"
#include "hook/next.h"

namespace bulkhead::hook {
namespace {

// Function -> what it is, direct mapped: address << 1 | is a collective, in one word. A word is right or absent.
constexpr unsigned kPlaces = 1024;
constinit std::atomic<std::uint64_t> known[kPlaces]{};

std::atomic<std::uint64_t>& place_of(std::uint64_t bits) noexcept {
  return known[bits * 0x9E37'79B9'7F4A'7C15ull >> 54];
}
static_assert(kPlaces == 1u << (64 - 54));

bool starts(const char* text, const char* with) noexcept {
  return std::strncmp(text, with, std::strlen(with)) == 0;
}

// Since NCCL 2.19, before it, and the symmetric kernels of 2.27. A name is mangled where it was compiled as C++.
bool collective_name(const char* name) noexcept {
  if (name[0] == '_' && name[1] == 'Z') {
    name += 2;
    while (*name >= '0' && *name <= '9') ++name;
  }
  return starts(name, "ncclDevKernel") || starts(name, "ncclKernel_") || starts(name, "ncclSymk");
}

[[gnu::cold, gnu::noinline]] bool ask(CUfunction f, std::uint64_t bits) noexcept {
  const char* name = nullptr;
  // A launch takes a kernel of a library in place of a function. A driver before 12.3 tells neither name: then
  // nothing is known to be a collective.
  bool told = next.cuFuncGetName(&name, f) == CUDA_SUCCESS && name != nullptr;
  if (!told) {
    told = next.cuKernelGetName(&name, reinterpret_cast<CUkernel>(f)) == CUDA_SUCCESS &&
           name != nullptr;
  }
  const bool yes = told && collective_name(name);
  // relaxed: the word is the whole of it
  place_of(bits).store(bits << 1 | (yes ? 1 : 0), std::memory_order_relaxed);
  return yes;
}

}  // namespace

bool is_collective(CUfunction f) noexcept {
  const auto bits = static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(f));
  const std::uint64_t word = place_of(bits).load(std::memory_order_relaxed);  // as above
  if (word >> 1 == bits) [[likely]]
    return (word & 1) != 0;
  return ask(f, bits);
}

void forget_names() noexcept {
  quick_forget();
  for (auto& word : known) word.store(0, std::memory_order_relaxed);  // as above
}

// Functions of the same addresses may be others from here on.
CUresult cuModuleUnload(CUmodule hmod) noexcept {
  const CUresult r = next.cuModuleUnload(hmod);
  forget_names();
  return r;
}
CUresult cuLibraryUnload(CUlibrary library) noexcept {
  const CUresult r = next.cuLibraryUnload(library);
  forget_names();
  return r;
}

}  // namespace bulkhead::hook
