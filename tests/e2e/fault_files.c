// Preloaded into bulkheadd by tests: what touches a file below a directory `audit` obeys one byte of the file $FAULT_FILES, which the
// test maps, too. 1: fsync and fdatasync fail with EIO. 2: writing fails with ENOSPC. 3: writing and making files fail with EROFS.
// Eight bytes behind it count the calls that failed.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

#pragma GCC visibility push(default)

enum { kFsync = 1, kNoRoom = 2, kReadOnly = 3 };

static volatile unsigned char* words(void) {
  static volatile unsigned char* at;
  if (at != NULL) return at;
  const char* path = getenv("FAULT_FILES");
  const int fd = path == NULL ? -1 : (int)syscall(257 /* openat */, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
  void* map = fd < 0 ? MAP_FAILED : mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (fd >= 0) close(fd);
  static unsigned char none[16];
  return at = map == MAP_FAILED ? none : (volatile unsigned char*)map;
}

static int in_log(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t n = readlink(link, path, sizeof path - 1);
  if (n <= 0) return 0;
  path[n] = 0;
  return strstr(path, "/audit/") != NULL || (n > 6 && strcmp(path + n - 6, "/audit") == 0);
}

// Whether this call is to fail, and with what.
static int fails(int fd, int is_sync) {
  const int fault = words()[0];
  if (fault == 0 || (fault == kFsync) != is_sync || !in_log(fd)) return 0;
  __atomic_fetch_add((uint64_t*)(words() + 8), 1, __ATOMIC_RELAXED);
  errno = fault == kFsync ? EIO : fault == kNoRoom ? ENOSPC : EROFS;
  return 1;
}

#define NEXT(type, name) \
  static type next;      \
  if (next == NULL) next = (type)dlsym(RTLD_NEXT, name)

typedef int (*sync_t)(int);
int fdatasync(int fd) {
  NEXT(sync_t, "fdatasync");
  return fails(fd, 1) ? -1 : next(fd);
}
int fsync(int fd) {
  NEXT(sync_t, "fsync");
  return fails(fd, 1) ? -1 : next(fd);
}
typedef ssize_t (*pwrite_t)(int, const void*, size_t, off_t);
ssize_t pwrite(int fd, const void* data, size_t n, off_t at) {
  NEXT(pwrite_t, "pwrite");
  return fails(fd, 0) ? -1 : next(fd, data, n, at);
}
ssize_t pwrite64(int fd, const void* data, size_t n, off_t at) { return pwrite(fd, data, n, at); }
typedef int (*openat_t)(int, const char*, int, ...);
static int open_below(int dir, const char* path, int flags, unsigned mode) {
  NEXT(openat_t, "openat");
  if ((flags & O_CREAT) != 0 && words()[0] == kReadOnly && path[0] != '/' && fails(dir, 0)) return -1;
  return next(dir, path, flags, mode);
}
int openat(int dir, const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const unsigned mode = va_arg(more, unsigned);
  va_end(more);
  return open_below(dir, path, flags, mode);
}
int openat64(int dir, const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const unsigned mode = va_arg(more, unsigned);
  va_end(more);
  return open_below(dir, path, flags, mode);
}
