#include "daemon/sealed.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <string>

namespace bulkhead::daemon {

Result<Sealed> make_sealed(const char* name, std::size_t bytes, bool ours_alone) {
  Sealed out;
  out.fd.reset(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!out.fd.ok()) return Status{Errc::kIo, errno, "cannot make shared memory"};
  if (::fchmod(out.fd.get(), 0600) != 0 ||
      ::ftruncate(out.fd.get(), static_cast<off_t>(bytes)) != 0) {
    return Status{Errc::kIo, errno, "cannot size shared memory"};
  }
  void* const at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, out.fd.get(), 0);
  if (at == MAP_FAILED) return Status{Errc::kIo, errno, "cannot map shared memory"};
  out.map = Mapping{at, bytes};
  const int seals =
      F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | (ours_alone ? F_SEAL_FUTURE_WRITE : 0);
  if (::fcntl(out.fd.get(), F_ADD_SEALS, seals) != 0) {
    return Status{Errc::kIo, errno, "cannot seal shared memory"};
  }
  return out;
}

Result<UniqueFd> reopen_read_only(int fd) {
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  UniqueFd out{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (!out.ok()) return Status{Errc::kIo, errno, "cannot open shared memory read-only"};
  return out;
}

}  // namespace bulkhead::daemon
