// A tenant's process that shares memory as it is told: one command a line, one answer "rc CODE [WORDS]" a line. Handles
// are hex; descriptors go through a Unix socket at a path.
#include <dlfcn.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <sstream>
#include <string>

#include "abi/cuda_types.h"
#include "abi/table_macros.h"

namespace {

extern "C" {
#define BH_HOOK(name, since, family, ...) CUresult name(BH_PARAMS(__VA_ARGS__));
#define BH_PASS(name, since, reason, ...) CUresult name(BH_PARAMS(__VA_ARGS__));
#include "abi/cuda.def"
}
template <class F>
F* entry(const char* name) {
  static void* const lib = dlopen("libcuda.so.1", RTLD_NOW);
  auto* const f = reinterpret_cast<F*>(dlsym(lib, name));
  if (f == nullptr) std::exit(3);
  return f;
}
#define CU(name) entry<decltype(name)>(#name)

std::string to_hex(const void* data, std::size_t n) {
  std::string out;
  char two[3];
  for (std::size_t i = 0; i < n; ++i) {
    std::snprintf(two, sizeof two, "%02x", static_cast<const unsigned char*>(data)[i]);
    out += two;
  }
  return out;
}
void from_hex(const std::string& text, void* data, std::size_t n) {
  for (std::size_t i = 0; i < n && 2 * i + 1 < text.size(); ++i) {
    static_cast<unsigned char*>(data)[i] =
        static_cast<unsigned char>(std::stoul(text.substr(2 * i, 2), nullptr, 16));
  }
}

sockaddr_un address(const std::string& path) {
  sockaddr_un a{};
  a.sun_family = AF_UNIX;
  std::strncpy(a.sun_path, path.c_str(), sizeof a.sun_path - 1);
  return a;
}
int listen_at(const std::string& path) {
  const int s = socket(AF_UNIX, SOCK_DGRAM, 0);
  const sockaddr_un a = address(path);
  return bind(s, reinterpret_cast<const sockaddr*>(&a), sizeof a) == 0 ? s : -1;
}
bool send_fd(const std::string& path, int fd) {
  const int s = socket(AF_UNIX, SOCK_DGRAM, 0);
  sockaddr_un a = address(path);
  char byte = 0, control[CMSG_SPACE(sizeof(int))] = {};
  iovec io{&byte, 1};
  msghdr h{};
  h.msg_name = &a;
  h.msg_namelen = sizeof a;
  h.msg_iov = &io;
  h.msg_iovlen = 1;
  h.msg_control = control;
  h.msg_controllen = sizeof control;
  cmsghdr* c = CMSG_FIRSTHDR(&h);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(c), &fd, sizeof fd);
  const bool sent = sendmsg(s, &h, 0) == 1;
  close(s);
  return sent;
}
int receive_fd(int s) {
  char byte = 0, control[CMSG_SPACE(sizeof(int))] = {};
  iovec io{&byte, 1};
  msghdr h{};
  h.msg_iov = &io;
  h.msg_iovlen = 1;
  h.msg_control = control;
  h.msg_controllen = sizeof control;
  int fd = -1;
  if (recvmsg(s, &h, MSG_CMSG_CLOEXEC) != 1 || CMSG_FIRSTHDR(&h) == nullptr) return -1;
  std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&h)), sizeof fd);
  return fd;
}

struct State {
  CUcontext context = nullptr;
  std::map<std::string, CUdeviceptr> pointers;
  std::map<std::string, CUmemGenericAllocationHandle> handles;
  std::map<std::string, CUmemoryPool> pools;
  std::map<std::string, int> fds;
  int socket = -1;
};

CUmemPoolProps pool_props() {
  CUmemPoolProps p{};
  p.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  p.handleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  p.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  return p;
}
CUmemAllocationProp vmm_prop() {
  CUmemAllocationProp p{};
  p.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  p.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  p.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  return p;
}
void* as_os(int fd) { return reinterpret_cast<void*>(static_cast<std::intptr_t>(fd)); }

CUresult legacy(State& s, const std::string& what, const std::string& name, const std::string& arg,
                std::string& more) {
  if (what == "alloc") return CU(cuMemAlloc_v2)(&s.pointers[name], std::stoull(arg));
  if (what == "free") return CU(cuMemFree_v2)(s.pointers[name]);
  if (what == "export") {
    CUipcMemHandle h{};
    const CUresult r = CU(cuIpcGetMemHandle)(&h, s.pointers[name]);
    more = to_hex(&h, sizeof h);
    return r;
  }
  if (what == "open") {
    CUipcMemHandle h{};
    from_hex(arg, &h, sizeof h);
    return CU(cuIpcOpenMemHandle_v2)(&s.pointers[name], h, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
  }
  if (what == "close") return CU(cuIpcCloseMemHandle)(s.pointers[name]);
  return CUDA_ERROR_NOT_SUPPORTED;
}

CUresult shareable(State& s, const std::string& what, const std::string& name,
                   const std::string& arg, std::string& more) {
  if (what == "create") {
    const CUmemAllocationProp p = vmm_prop();
    return CU(cuMemCreate)(&s.handles[name], std::stoull(arg), &p, 0);
  }
  if (what == "release") return CU(cuMemRelease)(s.handles[name]);
  if (what == "vexport") {
    return CU(cuMemExportToShareableHandle)(&s.fds[name], s.handles[name],
                                            CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
  }
  if (what == "import") {
    return CU(cuMemImportFromShareableHandle)(&s.handles[name], as_os(s.fds[arg]),
                                              CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
  }
  if (what == "pool") {
    const CUmemPoolProps p = pool_props();
    return CU(cuMemPoolCreate)(&s.pools[name], &p);
  }
  if (what == "pexport") {
    return CU(cuMemPoolExportToShareableHandle)(&s.fds[name], s.pools[name],
                                                CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
  }
  if (what == "pimport") {
    return CU(cuMemPoolImportFromShareableHandle)(&s.pools[name], as_os(s.fds[arg]),
                                                  CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
  }
  if (what == "palloc") {
    return CU(cuMemAllocFromPoolAsync)(&s.pointers[name], std::stoull(arg), s.pools[name], nullptr);
  }
  if (what == "pget") {
    CUmemPoolPtrExportData d{};
    const CUresult r = CU(cuMemPoolExportPointer)(&d, s.pointers[name]);
    more = to_hex(&d, sizeof d);
    return r;
  }
  if (what == "pset") {
    CUmemPoolPtrExportData d{};
    from_hex(arg, &d, sizeof d);
    return CU(cuMemPoolImportPointer)(&s.pointers[name], s.pools[name], &d);
  }
  return CUDA_ERROR_NOT_SUPPORTED;
}

CUresult event_twin(State&, const std::string& arg, std::string& more) {
  CUevent e = nullptr;
  CUipcEventHandle h{};
  if (arg.empty()) {
    CUresult r = CU(cuEventCreate)(&e, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING);
    if (r == CUDA_SUCCESS) r = CU(cuIpcGetEventHandle)(&h, e);
    more = to_hex(&h, sizeof h);
    return r;
  }
  from_hex(arg, &h, sizeof h);
  return CU(cuIpcOpenEventHandle)(&e, h);
}

}  // namespace

int main() {
  State s;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream in{line};
    std::string what, name, arg, more;
    in >> what >> name >> arg;
    CUresult r = CUDA_ERROR_INVALID_VALUE;
    if (what == "init") {
      r = CU(cuInit)(0);
      if (r == CUDA_SUCCESS) r = CU(cuDevicePrimaryCtxRetain)(&s.context, 0);
      if (r == CUDA_SUCCESS) r = CU(cuCtxSetCurrent)(s.context);
    } else if (what == "reset") {
      r = CU(cuDevicePrimaryCtxReset_v2)(0);
    } else if (what == "listen") {
      s.socket = listen_at(name);
      r = s.socket >= 0 ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM;
    } else if (what == "send") {
      r = send_fd(arg, s.fds[name]) ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM;
    } else if (what == "receive") {
      s.fds[name] = receive_fd(s.socket);
      r = s.fds[name] >= 0 ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM;
    } else if (what == "closefd") {
      r = close(s.fds[name]) == 0 ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM;
    } else if (what == "event") {
      r = event_twin(s, name, more);
    } else if (what == "exit") {
      std::_Exit(0);
    } else {
      r = legacy(s, what, name, arg, more);
      if (r == CUDA_ERROR_NOT_SUPPORTED) r = shareable(s, what, name, arg, more);
    }
    std::printf("rc %d %s\n", static_cast<int>(r), more.c_str());
    std::fflush(stdout);
  }
}
