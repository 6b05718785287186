// What the scenarios of share_facts.cc have in common: both libraries by name, messages with descriptors between the two
// processes, and a line a fact. For that one source only.
#pragma once
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "abi/cuda_types.h"

namespace {

constexpr size_t kMiB = 1u << 20;
void *cuda, *nvml, *nvml_device;
struct NvmlProc {
  unsigned pid;
  unsigned long long used;
  unsigned gi, ci;
};

template <class... A>
int cu(const char* name, A... args) {
  static_assert(sizeof...(A) > 0);
  const auto f = reinterpret_cast<int (*)(A...)>(::dlsym(cuda, name));
  return f == nullptr ? -1 : f(args...);
}
template <class... A>
int ml(const char* name, A... args) {
  const auto f = reinterpret_cast<int (*)(A...)>(::dlsym(nvml, name));
  return f == nullptr ? -1 : f(args...);
}

const char* who = "?";
void start(const char* name, int other_socket) {
  who = name;
  ::close(other_socket);
  cuda = ::dlopen("libcuda.so.1", RTLD_NOW);
  nvml = ::dlopen("libnvidia-ml.so.1", RTLD_NOW);
  void* context = nullptr;
  const auto init = reinterpret_cast<int (*)()>(::dlsym(nvml, "nvmlInit_v2"));
  if (cu("cuInit", 0u) != 0 || cu("cuDevicePrimaryCtxRetain", &context, 0) != 0 ||
      cu("cuCtxSetCurrent", context) != 0 || init() != 0 ||
      ml("nvmlDeviceGetHandleByIndex_v2", 0u, &nvml_device) != 0) {
    std::printf("{\"error\":\"start\",\"who\":\"%s\"}\n", name);
    std::_Exit(1);
  }
}
unsigned long long device_used() {
  struct {
    unsigned long long total, free, used;
  } m{};
  ml("nvmlDeviceGetMemoryInfo", nvml_device, &m);
  return m.used;
}
// The device's use in MiB, and that of every process NVML lists.
void look(const char* at) {
  NvmlProc list[64];
  unsigned n = 64;
  ml("nvmlDeviceGetComputeRunningProcesses_v3", nvml_device, &n, list);
  std::printf("{\"who\":\"%s\",\"pid\":%d,\"at\":\"%s\",\"device_mib\":%.1f,\"listed\":{", who,
              ::getpid(), at, static_cast<double>(device_used()) / kMiB);
  for (unsigned i = 0; i < n && i < 64; ++i) {
    std::printf("%s\"%u\":%.1f", i ? "," : "", list[i].pid,
                static_cast<double>(list[i].used) / kMiB);
  }
  std::printf("}}\n");
  std::fflush(stdout);
}
void code(const char* what, int r) {
  std::printf("{\"who\":\"%s\",\"call\":\"%s\",\"code\":%d}\n", who, what, r);
  std::fflush(stdout);
}
void same(const char* what, bool equal) {
  std::printf("{\"who\":\"%s\",\"same\":\"%s\",\"is\":%s}\n", who, what, equal ? "true" : "false");
  std::fflush(stdout);
}
void hex(const char* what, const void* data, size_t n) {
  std::printf("{\"who\":\"%s\",\"bytes\":\"%s\",\"hex\":\"", who, what);
  for (size_t i = 0; i < n; ++i) std::printf("%02x", static_cast<const unsigned char*>(data)[i]);
  std::printf("\"}\n");
  std::fflush(stdout);
}

struct Message {
  int pid = 0, fd_number = -1;
  CUipcMemHandle ipc[4]{};
  CUmemPoolPtrExportData pointer[2]{};
};
void send(int s, const Message& m, const int* fds = nullptr, int count = 0) {
  char control[CMSG_SPACE(4 * sizeof(int))]{};
  iovec io{const_cast<Message*>(&m), sizeof m};
  msghdr h{};
  h.msg_iov = &io;
  h.msg_iovlen = 1;
  if (count > 0) {
    h.msg_control = control;
    h.msg_controllen = CMSG_SPACE(static_cast<size_t>(count) * sizeof(int));
    cmsghdr* c = CMSG_FIRSTHDR(&h);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(static_cast<size_t>(count) * sizeof(int));
    std::memcpy(CMSG_DATA(c), fds, static_cast<size_t>(count) * sizeof(int));
  }
  if (::sendmsg(s, &h, 0) < 0) std::perror("sendmsg");
}
bool hear(int s, Message& m, int* fds = nullptr) {
  char control[CMSG_SPACE(4 * sizeof(int))]{};
  iovec io{&m, sizeof m};
  msghdr h{};
  h.msg_iov = &io;
  h.msg_iovlen = 1;
  h.msg_control = control;
  h.msg_controllen = sizeof control;
  if (::recvmsg(s, &h, 0) <= 0) return false;
  cmsghdr* c = CMSG_FIRSTHDR(&h);
  if (c != nullptr && fds != nullptr) std::memcpy(fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
  return true;
}
bool hear(int s) {
  Message m;
  return hear(s, m);
}
void say(int s) { send(s, Message{}); }

void check_bytes(const char* what, CUdeviceptr at, unsigned char want) {
  unsigned char got[16]{};
  const int r = cu("cuMemcpyDtoH_v2", static_cast<void*>(got), at, sizeof got);
  std::printf("{\"who\":\"%s\",\"read\":\"%s\",\"code\":%d,\"right\":%s}\n", who, what, r,
              got[0] == want && got[15] == want ? "true" : "false");
  std::fflush(stdout);
}
void show_fd(const char* what, int fd) {
  struct stat st {};
  ::fstat(fd, &st);
  char path[64], link[128]{}, info[512]{};
  std::snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  if (::readlink(path, link, sizeof link - 1) < 0) link[0] = 0;
  std::snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
  const int f = ::open(path, O_RDONLY);
  if (f >= 0 && ::read(f, info, sizeof info - 1) < 0) info[0] = 0;
  ::close(f);
  for (char* p = info; *p; ++p)
    if (*p == '\n' || *p == '\t') *p = ' ';
  std::printf(
      "{\"who\":\"%s\",\"fd\":\"%s\",\"dev\":%lu,\"ino\":%lu,\"rdev\":%lu,\"link\":\"%s\",\"info\":"
      "\"%s\"}\n",
      who, what, static_cast<unsigned long>(st.st_dev), static_cast<unsigned long>(st.st_ino),
      static_cast<unsigned long>(st.st_rdev), link, info);
  std::fflush(stdout);
}
// A mark that travels with the open file description: a read lock on bytes of our choice.
int mark(int fd, long long start, long long length) {
  struct flock l {};
  l.l_type = F_RDLCK;
  l.l_whence = SEEK_SET;
  l.l_start = start;
  l.l_len = length;
  return ::fcntl(fd, F_OFD_SETLK, &l) == 0 ? 0 : errno;
}
long kcmp_file(int pid1, int pid2, int fd1, int fd2) {
  return ::syscall(SYS_kcmp, pid1, pid2, KCMP_FILE, fd1, fd2);
}

CUdeviceptr plain(size_t bytes, int value) {
  CUdeviceptr p = 0;
  code("cuMemAlloc", cu("cuMemAlloc_v2", &p, bytes));
  cu("cuMemsetD8_v2", p, static_cast<unsigned char>(value), bytes);
  cu("cuStreamSynchronize", static_cast<void*>(nullptr));
  return p;
}

}  // namespace
