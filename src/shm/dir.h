// Which directory is in use, and whether it may be trusted (DESIGN 4 'Authority', 8 'Directory').
//
// Values of the environment are requests. Where a root-owned node page exists in the root
// directory, that directory is the one in use: BULKHEAD_DIR is honoured only if the page's
// private_dirs flag is set or on the simulated driver. Else $BULKHEAD_DIR, else the root directory
// for root, else $XDG_RUNTIME_DIR/bulkhead. The directory is opened without following a link in its
// last part; it must belong to root or to us, and nobody else may write in it.
#pragma once
#include <sys/types.h>

#include "base/fd.h"
#include "base/status.h"
#include "shm/files.h"

namespace bulkhead::shm {

struct DirOptions {
  const char* asked = nullptr;        // BULKHEAD_DIR
  const char* runtime_dir = nullptr;  // XDG_RUNTIME_DIR
  const char* root_dir = "/run/bulkhead";
  uid_t root_uid = 0;  // owner of an authoritative node page; another only in tests
  uid_t euid = 0;
  bool simulated = false;  // this process runs on the simulated driver
  bool create = false;     // make the directory (0700; 0755 for root) if it is missing
};
// The options as the process's environment gives them.
[[nodiscard]] DirOptions dir_options(bool simulated, bool create) noexcept;

struct Dir {
  UniqueFd fd;
  char path[kPathBytes] = {};
  uid_t euid = 0;
  bool authoritative = false;  // a root-owned node page rules here
};
// kUntrusted: a rule of ownership failed; kNotFound: missing and not to be made; kIo: cannot be
// made or opened; kInvalid: nothing says where it is. The text names the rule.
[[nodiscard]] Result<Dir> open_dir(const DirOptions& options) noexcept;

}  // namespace bulkhead::shm
