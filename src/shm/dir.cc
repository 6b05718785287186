#include "shm/dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>

#include "shm/node.h"

namespace bulkhead::shm {
namespace {

struct Authority {
  bool exists = false;
  bool private_dirs = false;
};

// A node page that is not root's, or lies where others may write, is no authority.
Authority find_authority(const DirOptions& o) noexcept {
  Authority found;
  Result<UniqueFd> dir = open_directory(AT_FDCWD, o.root_dir, o.root_uid);
  if (!dir.ok()) return found;
  struct stat st {};
  if (!stat_at(dir->get(), "node", st) || st.st_uid != o.root_uid || !S_ISREG(st.st_mode)) {
    return found;
  }
  found.exists = true;  // from here on a damaged page gives away nothing: private_dirs stays off
  Result<UniqueFd> page = open_file(dir->get(), "node", O_RDONLY, o.root_uid, sizeof(NodePage));
  if (!page.ok()) return found;
  struct {
    std::uint64_t magic;
    std::uint16_t major, minor;
    std::uint32_t header_bytes;
    std::uint64_t page_bytes;
    std::uint32_t flags, tenant_count;
  } head{};
  static_assert(sizeof head == offsetof(NodePage, tenant_count) + sizeof(std::uint32_t));
  if (!read_exactly(page->get(), &head, sizeof head, 0)) return found;
  found.private_dirs =
      head.magic == kNodeMagic && head.major == kNodeMajor && (head.flags & kPrivateDirs) != 0;
  return found;
}

bool is_set(const char* text) noexcept { return text != nullptr && text[0] != 0; }

}  // namespace

DirOptions dir_options(bool simulated, bool create) noexcept {
  DirOptions o;
  o.asked = ::getenv("BULKHEAD_DIR");
  o.runtime_dir = ::getenv("XDG_RUNTIME_DIR");
  o.euid = ::geteuid();
  o.simulated = simulated;
  o.create = create;
  return o;
}

Result<Dir> open_dir(const DirOptions& o) noexcept {
  const Authority authority = find_authority(o);
  const bool honoured = !authority.exists || authority.private_dirs || o.simulated;
  Dir dir;
  dir.euid = o.euid;
  bool fits = true;
  if (is_set(o.asked) && honoured) {
    if (o.asked[0] != '/') return Status{Errc::kInvalid, 0, "BULKHEAD_DIR is not an absolute path"};
    fits = join_path(dir.path, o.asked);
  } else if (authority.exists || o.euid == 0) {
    dir.authoritative = authority.exists;
    fits = join_path(dir.path, o.root_dir);
  } else if (is_set(o.runtime_dir) && o.runtime_dir[0] == '/') {
    fits = join_path(dir.path, o.runtime_dir, "/bulkhead");
  } else {
    return Status{Errc::kInvalid, 0, "neither BULKHEAD_DIR nor XDG_RUNTIME_DIR is set"};
  }
  if (!fits) return Status{Errc::kInvalid, 0, "the directory's path is too long"};
  // open_directory() below refuses what was there already under another owner or mode
  if (o.create && ::mkdir(dir.path, o.euid == 0 ? 0755 : 0700) != 0 && errno != EEXIST) {
    return Status{Errc::kIo, errno, "cannot make the directory"};
  }
  Result<UniqueFd> fd = open_directory(AT_FDCWD, dir.path, o.euid);
  if (!fd.ok()) return fd.status();
  dir.fd = std::move(*fd);
  return dir;
}

}  // namespace bulkhead::shm
