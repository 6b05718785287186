// The C library's own dlsym and dlvsym, found without calling either: both names are exported by
// us, so every symbol look-up for them could end at ourselves. The tables of libc (before glibc
// 2.34: libdl) are read directly. No heap, no lock but the loader's (recursive); any thread, any
// time.
#pragma once

namespace bulkhead::hook {

// As dlsym(handle, name), called from this library. For RTLD_NEXT and RTLD_DEFAULT that matters.
[[nodiscard]] void* real_dlsym(void* handle, const char* name) noexcept;
[[nodiscard]] void* real_dlvsym(void* handle, const char* name, const char* version) noexcept;

}  // namespace bulkhead::hook

// dlsym.S and what it uses: where the real ones are, null until found.
extern "C" {
[[gnu::visibility("hidden")]] extern void* bh_dlsym_real;
[[gnu::visibility("hidden")]] extern void* bh_dlvsym_real;
[[gnu::visibility("hidden")]] void bh_find_loader() noexcept;
// The doors for our names (doors.cc), with the address the caller returns to.
[[gnu::visibility("hidden")]] void* bh_dlsym(void* handle, const char* name, void* caller) noexcept;
[[gnu::visibility("hidden")]] void* bh_dlvsym(void* handle, const char* name, const char* version,
                                              void* caller) noexcept;
}
