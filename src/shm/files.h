// Files below a trusted directory: the rules of ownership every shared file is opened under. libc
// only, no symbol newer than GLIBC 2.17 (stat goes by system call), no heap.
#pragma once
#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>

#include "base/fd.h"
#include "base/status.h"

namespace bulkhead::shm {

inline constexpr std::size_t kPathBytes = 512;
inline constexpr int kFarFd = 64;  // from here on we keep descriptors; see out_of_the_way()

[[nodiscard]] bool stat_fd(int fd, struct stat& out) noexcept;
[[nodiscard]] bool stat_at(int dir, const char* name,
                           struct stat& out) noexcept;  // follows no link

// Names of tenants: [a-z0-9][a-z0-9._-]{0,62}. Nothing else ever becomes part of a path.
[[nodiscard]] bool valid_name(const char* name) noexcept;

// Opens a directory without following a link in its last part; its owner must be root or `euid`,
// and nobody else may write in it. kUntrusted says which rule failed.
[[nodiscard]] Result<UniqueFd> open_directory(int at, const char* path, uid_t euid) noexcept;
// Opens a regular file with one link and exactly `bytes` bytes that belongs to `owner` and that
// nobody else may write; any owner if `owner` is kAnyOwner.
inline constexpr uid_t kAnyOwner = static_cast<uid_t>(-1);
[[nodiscard]] Result<UniqueFd> open_file(int dir, const char* name, int flags, uid_t owner,
                                         std::uint64_t bytes) noexcept;
// Moves a descriptor that is kept in a program not ours above the numbers that programs expect to
// choose themselves (0, 1, 2 after they closed all, shells up to 9): what they print must not land
// in our file. -1 if none is left above 2. The file's record locks are lost: move before locking.
[[nodiscard]] UniqueFd out_of_the_way(UniqueFd fd) noexcept;
// Reads exactly `bytes` at `offset`; false on error or a short file.
[[nodiscard]] bool read_exactly(int fd, void* to, std::size_t bytes, std::uint64_t offset) noexcept;
// Calls `fn` for each entry but . and ..; it stops when fn returns false.
[[nodiscard]] Status for_each_entry(int dir, bool (*fn)(void*, const char*), void* arg) noexcept;
// out = a + b + c; false if it does not fit.
[[nodiscard]] bool join_path(char (&out)[kPathBytes], const char* a, const char* b = "",
                             const char* c = "") noexcept;

}  // namespace bulkhead::shm
