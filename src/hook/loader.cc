#include "hook/loader.h"

#include <elf.h>
#include <link.h>

#include <cstdint>
#include <cstring>

extern "C" {
void* bh_dlsym_real = nullptr;
void* bh_dlvsym_real = nullptr;
}

namespace bulkhead::hook {
namespace {

// The dynamic section of one loaded object, as far as a symbol look-up needs it.
struct Tables {
  ElfW(Addr) base = 0;
  const ElfW(Sym) * symbols = nullptr;
  const char* strings = nullptr;
  const std::uint32_t* gnu_hash = nullptr;
  const ElfW(Word) * hash = nullptr;
  const char* soname = nullptr;
};

bool read_tables(const dl_phdr_info& info, Tables& out) noexcept {
  const ElfW(Dyn)* dynamic = nullptr;
  for (int i = 0; i < info.dlpi_phnum; ++i) {
    if (info.dlpi_phdr[i].p_type == PT_DYNAMIC) {
      dynamic = reinterpret_cast<const ElfW(Dyn)*>(info.dlpi_addr + info.dlpi_phdr[i].p_vaddr);
    }
  }
  if (dynamic == nullptr) return false;
  out.base = info.dlpi_addr;
  // glibc relocates these in place; an address below the base was not (the vDSO's)
  const auto at = [&](ElfW(Addr) a) { return a < info.dlpi_addr ? a + info.dlpi_addr : a; };
  ElfW(Xword) soname = 0;
  for (; dynamic->d_tag != DT_NULL; ++dynamic) {
    const ElfW(Addr) address = at(dynamic->d_un.d_ptr);
    if (dynamic->d_tag == DT_SYMTAB) out.symbols = reinterpret_cast<const ElfW(Sym)*>(address);
    if (dynamic->d_tag == DT_STRTAB) out.strings = reinterpret_cast<const char*>(address);
    if (dynamic->d_tag == DT_GNU_HASH) {
      out.gnu_hash = reinterpret_cast<const std::uint32_t*>(address);
    }
    if (dynamic->d_tag == DT_HASH) out.hash = reinterpret_cast<const ElfW(Word)*>(address);
    if (dynamic->d_tag == DT_SONAME) soname = dynamic->d_un.d_val;
  }
  if (out.symbols == nullptr || out.strings == nullptr || soname == 0) return false;
  out.soname = out.strings + soname;
  return true;
}

void* address_if(const Tables& t, std::uint32_t index, const char* name) noexcept {
  const ElfW(Sym)& s = t.symbols[index];
  if (s.st_shndx == SHN_UNDEF || (s.st_info & 15) != STT_FUNC) return nullptr;
  if (std::strcmp(t.strings + s.st_name, name) != 0) return nullptr;
  return reinterpret_cast<void*>(t.base + s.st_value);
}

// DT_GNU_HASH: nbuckets, first symbol, bloom words, shift; bloom; buckets; chains whose last entry
// has bit 0 set.
void* find_gnu(const Tables& t, const char* name) noexcept {
  const std::uint32_t buckets = t.gnu_hash[0];
  const std::uint32_t first = t.gnu_hash[1];
  const std::uint32_t* bucket = t.gnu_hash + 4 + t.gnu_hash[2] * (sizeof(ElfW(Addr)) / 4);
  const std::uint32_t* chain = bucket + buckets;
  std::uint32_t h = 5381;
  for (const char* c = name; *c != 0; ++c) h = h * 33 + static_cast<unsigned char>(*c);
  if (buckets == 0) return nullptr;
  std::uint32_t i = bucket[h % buckets];
  if (i < first) return nullptr;
  for (;; ++i) {
    const std::uint32_t entry = chain[i - first];
    if ((entry | 1) == (h | 1)) {
      if (void* found = address_if(t, i, name)) return found;
    }
    if ((entry & 1) != 0) return nullptr;
  }
}

void* find(const Tables& t, const char* name) noexcept {
  if (t.gnu_hash != nullptr) return find_gnu(t, name);
  if (t.hash == nullptr) return nullptr;
  for (ElfW(Word) i = 1; i < t.hash[1]; ++i) {  // DT_HASH: nbucket, nchain = number of symbols
    if (void* found = address_if(t, i, name)) return found;
  }
  return nullptr;
}

int look_at(dl_phdr_info* info, std::size_t, void*) noexcept {
  Tables t;
  if (!read_tables(*info, t)) return 0;
  if (std::strcmp(t.soname, "libc.so.6") != 0 && std::strcmp(t.soname, "libdl.so.2") != 0) return 0;
  void* const sym = find(t, "dlsym");
  void* const vsym = find(t, "dlvsym");
  if (sym == nullptr || vsym == nullptr) return 0;
  // relaxed: every thread finds the same addresses, and the code behind them is mapped already
  __atomic_store_n(&bh_dlvsym_real, vsym, __ATOMIC_RELAXED);
  __atomic_store_n(&bh_dlsym_real, sym, __ATOMIC_RELAXED);
  return 1;
}

void* known(void** where) noexcept {
  void* at = __atomic_load_n(where, __ATOMIC_RELAXED);  // as above
  if (at != nullptr) return at;
  bh_find_loader();
  return __atomic_load_n(where, __ATOMIC_RELAXED);
}

}  // namespace

void* real_dlsym(void* handle, const char* name) noexcept {
  const auto fn = reinterpret_cast<void* (*)(void*, const char*)>(known(&bh_dlsym_real));
  return fn == nullptr ? nullptr : fn(handle, name);
}

void* real_dlvsym(void* handle, const char* name, const char* version) noexcept {
  const auto fn =
      reinterpret_cast<void* (*)(void*, const char*, const char*)>(known(&bh_dlvsym_real));
  return fn == nullptr ? nullptr : fn(handle, name, version);
}

}  // namespace bulkhead::hook

void bh_find_loader() noexcept { ::dl_iterate_phdr(bulkhead::hook::look_at, nullptr); }
