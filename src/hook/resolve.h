// The doors: which pointer a program gets for a name. docs/formats/doors.md describes them.
//
// Substitution is by pointer: the real address of a hooked function is replaced by our export of
// the same name, hence of the same ABI, whatever base name, version or flag was asked for. Nothing
// here allocates or locks; any thread, at any time, the loader's lock held or not.
#pragma once
#include <cstdint>

namespace bulkhead::hook {

enum class Load : std::uint8_t { kNo, kYes };

// Fills next / nvml_next and the substitution table from the library, which is loaded only with
// kYes. False: it is not there.
bool resolve_cuda(Load load) noexcept;
bool resolve_nvml(Load load) noexcept;
// Whether what was resolved is the simulated driver.
[[nodiscard]] bool on_simulator() noexcept;

// Real address -> ours. The first `ours` given for an address stays.
void add_substitute(void* real, void* ours) noexcept;
// Ours for a real address; null if that is not a hooked function.
[[nodiscard]] void* substitute(const void* real) noexcept;
// Whether `name` is a hooked function's name, or one without its _vN, _ptsz or _ptds.
[[nodiscard]] bool hooked_name(const char* name) noexcept;
// Whether a function of that name moves bytes, by how it begins: of a driver newer than the table too.
[[nodiscard]] bool moving_name(const char* name) noexcept;
// Our export of exactly that name; null if there is none.
[[nodiscard]] void* export_of(const char* name) noexcept;

}  // namespace bulkhead::hook
