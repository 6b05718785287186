// Memory that is shared by descriptor: a memfd of a fixed size that nobody can shrink, grow or unseal. A memfd is 0777
// by default and its descriptor writable (memfd_create(2)): its mode is taken away, and others get a descriptor that
// was opened again read-only, which no fcntl and no mprotect makes writable.
#pragma once
#include <cstddef>

#include "base/fd.h"
#include "base/mapping.h"
#include "base/status.h"

namespace bulkhead::daemon {

struct Sealed {
  UniqueFd fd;  // read and write
  Mapping map;  // of all of it
};
// `ours_alone`: nobody maps it writable after us, whatever descriptor they have (F_SEAL_FUTURE_WRITE, Linux 5.1).
[[nodiscard]] Result<Sealed> make_sealed(const char* name, std::size_t bytes,
                                         bool ours_alone = false);
// A descriptor of the same memory for others: reading only.
[[nodiscard]] Result<UniqueFd> reopen_read_only(int fd);

}  // namespace bulkhead::daemon
