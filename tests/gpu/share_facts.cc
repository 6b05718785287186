// Prints, as JSON lines, what a driver does with memory that one process shares and another opens: which handles are
// equal, what identifies a descriptor, who shows the memory, and what is left of it when its maker frees it or is
// killed. docs/formats/sharing.md rests on it. Needs a real GPU; run alone on it.
// Build: g++ -std=c++20 -O2 -Isrc tests/gpu/share_facts.cc -ldl
#include "share_facts.h"

namespace {

// ---- legacy IPC: A shares a large and two small allocations; `free_first`: A frees instead of dying
void ipc_a(int s, bool free_first) {
  const CUdeviceptr large = plain(256 * kMiB, 7), small1 = plain(65536, 1),
                    small2 = plain(65536, 2);
  Message m;
  CUipcMemHandle again{}, inside{};
  code("get large", cu("cuIpcGetMemHandle", &m.ipc[0], large));
  code("get again", cu("cuIpcGetMemHandle", &again, large));
  code("get inside", cu("cuIpcGetMemHandle", &inside, large + 4096));
  code("get small1", cu("cuIpcGetMemHandle", &m.ipc[1], small1));
  code("get small2", cu("cuIpcGetMemHandle", &m.ipc[2], small2));
  same("handle twice", std::memcmp(&m.ipc[0], &again, 64) == 0);
  same("handle of inside", std::memcmp(&m.ipc[0], &inside, 64) == 0);
  same("handles of two in a slab", std::memcmp(&m.ipc[1], &m.ipc[2], 64) == 0);
  same("one slab", small1 >> 21 == small2 >> 21);
  hex("large", &m.ipc[0], 64);
  hex("small1", &m.ipc[1], 64);
  hex("small2", &m.ipc[2], 64);
  CUdeviceptr own = 0;
  code("open own", cu("cuIpcOpenMemHandle_v2", &own, m.ipc[0], 1u));
  m.pid = ::getpid();
  look("A shared");
  send(s, m);
  hear(s);
  look("A: B has opened");
  if (free_first) {
    code("free large", cu("cuMemFree_v2", large));
    look("A freed large");
    const CUdeviceptr next = plain(256 * kMiB, 9);
    same("address of freed returns", next == large);
    CUipcMemHandle other{};
    cu("cuIpcGetMemHandle", &other, next);
    same("handle of a new one at that address", std::memcmp(&m.ipc[0], &other, 64) == 0);
    cu("cuMemFree_v2", next);
    say(s);
    hear(s);
    look("A: B has closed");
    std::_Exit(0);
  }
  ::kill(::getpid(), SIGKILL);
}
void ipc_b(int s, int death, bool free_first) {
  Message m;
  hear(s, m);
  look("B before");
  CUdeviceptr p = 0, twice = 0, s1 = 0, s2 = 0;
  code("open large", cu("cuIpcOpenMemHandle_v2", &p, m.ipc[0], 1u));
  look("B opened large");
  code("open large again", cu("cuIpcOpenMemHandle_v2", &twice, m.ipc[0], 1u));
  same("pointer opened twice", p == twice);
  code("open small1", cu("cuIpcOpenMemHandle_v2", &s1, m.ipc[1], 1u));
  code("open small2", cu("cuIpcOpenMemHandle_v2", &s2, m.ipc[2], 1u));
  std::printf("{\"small_offsets\":[%llu,%llu]}\n", static_cast<unsigned long long>(s1 & 0x1fffff),
              static_cast<unsigned long long>(s2 & 0x1fffff));
  CUipcMemHandle re{};
  code("re-export of imported", cu("cuIpcGetMemHandle", &re, p));
  same("re-exported handle", std::memcmp(&re, &m.ipc[0], 64) == 0);
  CUdeviceptr base = 0;
  size_t size = 0;
  code("range of small2", cu("cuMemGetAddressRange_v2", &base, &size, s2));
  std::printf("{\"range_bytes\":%zu,\"base_is_pointer\":%d}\n", size, base == s2);
  look("B opened all");
  code("close small1", cu("cuIpcCloseMemHandle", s1));
  check_bytes("small2 after small1 closed", s2, 2);
  say(s);
  if (free_first) {
    hear(s);
    look("B: A has freed");
    check_bytes("large after A freed", p, 7);
  } else {
    char c;
    if (::read(death, &c, 1) != 1) return;
    look("B: A is dead");
    check_bytes("large after A died", p, 7);
    CUdeviceptr late = 0;
    code("open after death", cu("cuIpcOpenMemHandle_v2", &late, m.ipc[1], 1u));
  }
  code("close large once", cu("cuIpcCloseMemHandle", p));
  check_bytes("large after one close", p, 7);
  look("B closed once");
  code("close large twice", cu("cuIpcCloseMemHandle", p));
  look("B closed twice");
  code("close large thrice", cu("cuIpcCloseMemHandle", p));
  code("close small2", cu("cuIpcCloseMemHandle", s2));
  look("B closed all");
  say(s);
}

// ---- VMM by descriptor
void vmm_a(int s, bool release_first) {
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  unsigned long long h = 0, h2 = 0, own = 0;
  code("create", cu("cuMemCreate", &h, 256 * kMiB, &prop, 0ull));
  code("create 2", cu("cuMemCreate", &h2, 64 * kMiB, &prop, 0ull));
  int fds[3] = {-1, -1, -1};
  code("export", cu("cuMemExportToShareableHandle", static_cast<void*>(&fds[0]), h, 1, 0ull));
  code("export again", cu("cuMemExportToShareableHandle", static_cast<void*>(&fds[1]), h, 1, 0ull));
  code("export 2", cu("cuMemExportToShareableHandle", static_cast<void*>(&fds[2]), h2, 1, 0ull));
  show_fd("first", fds[0]);
  show_fd("again", fds[1]);
  show_fd("other", fds[2]);
  const int dupped = ::dup(fds[0]);
  std::printf("{\"kcmp_twice\":%ld,\"kcmp_dup\":%ld,\"errno\":%d}\n",
              kcmp_file(::getpid(), ::getpid(), fds[0], fds[1]),
              kcmp_file(::getpid(), ::getpid(), fds[0], dupped), errno);
  std::printf("{\"mark\":%d,\"mark_again\":%d,\"mark_other\":%d}\n",
              mark(fds[0], 0x123456789abcdefll, 42), mark(fds[1], 0x1122334455667788ll, 43),
              mark(fds[2], 0x123456789abcdefll, 44));
  show_fd("first, marked", fds[0]);
  code("import own", cu("cuMemImportFromShareableHandle", &own,
                        static_cast<void*>(reinterpret_cast<void*>(static_cast<long>(fds[0]))), 1));
  same("own import is the handle", own == h);
  if (own != 0) cu("cuMemRelease", own);
  prop.requestedHandleTypes = static_cast<CUmemAllocationHandleType>(8);
  unsigned long long fabric = 0;
  code("create fabric", cu("cuMemCreate", &fabric, 2 * kMiB, &prop, 0ull));
  if (fabric != 0) {
    CUmemFabricHandle f1{}, f2{};
    code("export fabric",
         cu("cuMemExportToShareableHandle", static_cast<void*>(&f1), fabric, 8, 0ull));
    code("export fabric again",
         cu("cuMemExportToShareableHandle", static_cast<void*>(&f2), fabric, 8, 0ull));
    same("fabric handle twice", std::memcmp(&f1, &f2, 64) == 0);
    hex("fabric", &f1, 64);
    cu("cuMemRelease", fabric);
  }
  CUdeviceptr at = 0;
  code("reserve", cu("cuMemAddressReserve", &at, 256 * kMiB, size_t{0}, CUdeviceptr{0}, 0ull));
  code("map", cu("cuMemMap", at, 256 * kMiB, size_t{0}, h, 0ull));
  CUmemAccessDesc access{{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  code("access", cu("cuMemSetAccess", at, 256 * kMiB, &access, size_t{1}));
  cu("cuMemsetD8_v2", at, static_cast<unsigned char>(5), 256 * kMiB);
  cu("cuStreamSynchronize", static_cast<void*>(nullptr));
  CUipcMemHandle legacy{};
  code("legacy handle of a mapping", cu("cuIpcGetMemHandle", &legacy, at));
  Message m;
  m.pid = ::getpid();
  m.fd_number = fds[0];
  look("A exported");
  send(s, m, fds, 3);
  hear(s);
  look("A: B has imported");
  if (release_first) {
    cu("cuMemUnmap", at, 256 * kMiB);
    cu("cuMemRelease", h);
    for (int fd : fds) ::close(fd);
    ::close(dupped);
    look("A released, descriptors closed");
    say(s);
    hear(s);
    look("A: B has released");
    std::_Exit(0);
  }
  ::kill(::getpid(), SIGKILL);
}
void vmm_b(int s, int death, bool release_first) {
  Message m;
  int fds[3] = {-1, -1, -1};
  hear(s, m, fds);
  show_fd("received first", fds[0]);
  show_fd("received again", fds[1]);
  std::printf("{\"kcmp_across\":%ld,\"kcmp_across_other\":%ld,\"errno\":%d}\n",
              kcmp_file(::getpid(), m.pid, fds[0], m.fd_number),
              kcmp_file(::getpid(), m.pid, fds[1], m.fd_number), errno);
  look("B before");
  unsigned long long h = 0, h2 = 0, h3 = 0;
  const auto os = [](int fd) { return reinterpret_cast<void*>(static_cast<long>(fd)); };
  code("import", cu("cuMemImportFromShareableHandle", &h, os(fds[0]), 1));
  code("import again", cu("cuMemImportFromShareableHandle", &h2, os(fds[0]), 1));
  code("import second fd", cu("cuMemImportFromShareableHandle", &h3, os(fds[1]), 1));
  same("two imports, one handle", h == h2);
  same("two descriptors, one handle", h == h3);
  CUmemAllocationProp prop{};
  code("properties", cu("cuMemGetAllocationPropertiesFromHandle", &prop, h));
  std::printf("{\"prop_type\":%d,\"prop_device\":%d,\"prop_handles\":%d}\n", prop.type,
              prop.location.id, prop.requestedHandleTypes);
  look("B imported");
  CUdeviceptr at = 0;
  cu("cuMemAddressReserve", &at, 256 * kMiB, size_t{0}, CUdeviceptr{0}, 0ull);
  code("map", cu("cuMemMap", at, 256 * kMiB, size_t{0}, h, 0ull));
  CUmemAccessDesc access{{CU_MEM_LOCATION_TYPE_DEVICE, 0}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  code("access", cu("cuMemSetAccess", at, 256 * kMiB, &access, size_t{1}));
  check_bytes("mapped", at, 5);
  look("B mapped");
  int re = -1;
  code("re-export", cu("cuMemExportToShareableHandle", static_cast<void*>(&re), h, 1, 0ull));
  if (re >= 0) {
    std::printf("{\"kcmp_reexport\":%ld}\n", kcmp_file(::getpid(), ::getpid(), re, fds[0]));
    show_fd("re-exported", re);
    ::close(re);
  }
  say(s);
  if (release_first) {
    hear(s);
    look("B: A has released");
  } else {
    char c;
    if (::read(death, &c, 1) != 1) return;
    look("B: A is dead");
    show_fd("first after death", fds[0]);
    unsigned long long late = 0;
    code("import after death (handle held)",
         cu("cuMemImportFromShareableHandle", &late, os(fds[0]), 1));
    unsigned long long late2 = 0;
    code("import of one never imported, after death",
         cu("cuMemImportFromShareableHandle", &late2, os(fds[2]), 1));
    look("B imported 2 after death");
    if (late2 != 0) cu("cuMemRelease", late2);
    if (late != 0) cu("cuMemRelease", late);
    look("B released 2");
    ::close(fds[2]);
    look("B closed the descriptor of 2");
  }
  check_bytes("mapped, at the end", at, 5);
  cu("cuMemUnmap", at, 256 * kMiB);
  look("B unmapped");
  for (const auto handle : {h, h2, h3})
    if (handle != 0) code("release", cu("cuMemRelease", handle));
  look("B released, descriptors open");
  for (int fd : fds) ::close(fd);
  look("B closed descriptors");
  say(s);
}

// ---- pools
void pool_a(int s, bool) {
  CUmemPoolProps props{};
  props.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  props.handleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  props.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  void* pool = nullptr;
  code("pool", cu("cuMemPoolCreate", &pool, &props));
  CUdeviceptr p[3]{};
  for (auto& at : p)
    code("alloc", cu("cuMemAllocFromPoolAsync", &at, 96 * kMiB, pool, static_cast<void*>(nullptr)));
  cu("cuMemsetD8_v2", p[0], static_cast<unsigned char>(3), 96 * kMiB);
  cu("cuStreamSynchronize", static_cast<void*>(nullptr));
  int fds[2] = {-1, -1};
  code("export pool",
       cu("cuMemPoolExportToShareableHandle", static_cast<void*>(&fds[0]), pool, 1, 0ull));
  code("export pool again",
       cu("cuMemPoolExportToShareableHandle", static_cast<void*>(&fds[1]), pool, 1, 0ull));
  std::printf("{\"kcmp_pool_twice\":%ld,\"mark\":%d}\n",
              kcmp_file(::getpid(), ::getpid(), fds[0], fds[1]), mark(fds[0], 77, 42));
  show_fd("pool", fds[0]);
  Message m;
  CUmemPoolPtrExportData again{};
  code("export pointer", cu("cuMemPoolExportPointer", &m.pointer[0], p[0]));
  code("export pointer again", cu("cuMemPoolExportPointer", &again, p[0]));
  code("export pointer 2", cu("cuMemPoolExportPointer", &m.pointer[1], p[1]));
  same("pointer data twice", std::memcmp(&m.pointer[0], &again, 64) == 0);
  hex("pointer", &m.pointer[0], 64);
  hex("pointer 2", &m.pointer[1], 64);
  CUipcMemHandle legacy{};
  code("legacy handle of a pool's pointer", cu("cuIpcGetMemHandle", &legacy, p[0]));
  void* own = nullptr;
  code("import own pool", cu("cuMemPoolImportFromShareableHandle", &own,
                             reinterpret_cast<void*>(static_cast<long>(fds[0])), 1, 0ull));
  look("A exported");
  send(s, m, fds, 2);
  hear(s);
  look("A: B has imported");
  code("free 2 in A", cu("cuMemFreeAsync", p[1], static_cast<void*>(nullptr)));
  cu("cuStreamSynchronize", static_cast<void*>(nullptr));
  look("A freed one that B has imported");
  say(s);
  hear(s);
  ::kill(::getpid(), SIGKILL);
}
void pool_b(int s, int death, bool) {
  Message m;
  int fds[2] = {-1, -1};
  hear(s, m, fds);
  show_fd("received pool", fds[0]);
  look("B before");
  void *pool = nullptr, *pool2 = nullptr;
  const auto os = [](int fd) { return reinterpret_cast<void*>(static_cast<long>(fd)); };
  code("import pool", cu("cuMemPoolImportFromShareableHandle", &pool, os(fds[0]), 1, 0ull));
  code("import pool again", cu("cuMemPoolImportFromShareableHandle", &pool2, os(fds[1]), 1, 0ull));
  same("one pool", pool == pool2);
  for (int fd : fds) ::close(fd);
  look("B imported pool");
  unsigned long long reserved = 0, used = 0;
  code("reserved of imported", cu("cuMemPoolGetAttribute", pool, 5, static_cast<void*>(&reserved)));
  code("used of imported", cu("cuMemPoolGetAttribute", pool, 7, static_cast<void*>(&used)));
  std::printf("{\"reserved\":%llu,\"used\":%llu}\n", reserved, used);
  CUdeviceptr p = 0, twice = 0, q = 0;
  code("import pointer", cu("cuMemPoolImportPointer", &p, pool, &m.pointer[0]));
  code("import pointer again", cu("cuMemPoolImportPointer", &twice, pool, &m.pointer[0]));
  code("import pointer 2", cu("cuMemPoolImportPointer", &q, pool, &m.pointer[1]));
  same("pointer twice", p == twice);
  check_bytes("pool pointer", p, 3);
  look("B imported pointers");
  say(s);
  hear(s);
  look("B: A freed 2");
  say(s);
  char c;
  if (::read(death, &c, 1) != 1) return;
  look("B: A is dead");
  check_bytes("pool pointer after death", p, 3);
  code("free 2 in B", cu("cuMemFreeAsync", q, static_cast<void*>(nullptr)));
  cu("cuStreamSynchronize", static_cast<void*>(nullptr));
  look("B freed 2");
  code("free 1 in B", cu("cuMemFreeAsync", p, static_cast<void*>(nullptr)));
  cu("cuStreamSynchronize", static_cast<void*>(nullptr));
  look("B freed 1");
  code("free 1 in B twice", cu("cuMemFreeAsync", p, static_cast<void*>(nullptr)));
  cu("cuStreamSynchronize", static_cast<void*>(nullptr));
  look("B freed 1 twice");
  code("destroy pool", cu("cuMemPoolDestroy", pool));
  look("B destroyed pool");
  if (pool2 != pool) code("destroy pool 2", cu("cuMemPoolDestroy", pool2));
  look("B destroyed pool 2");
}

template <class A, class B>
void scenario(const char* name, A a, B b, bool flag) {
  std::printf("{\"scenario\":\"%s\"}\n", name);
  std::fflush(stdout);
  int s[2], death[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s) != 0 || ::pipe(death) != 0) std::exit(1);
  const pid_t pa = ::fork();
  if (pa == 0) {
    start("A", s[1]);
    a(s[0], flag);
    std::_Exit(0);
  }
  const pid_t pb = ::fork();
  if (pb == 0) {
    ::alarm(60);
    start("B", s[0]);
    b(s[1], death[0], flag);
    std::_Exit(0);
  }
  ::close(s[0]);
  ::close(s[1]);
  int status = 0;
  ::waitpid(pa, &status, 0);
  if (::write(death[1], "d", 1) != 1) std::exit(1);
  ::waitpid(pb, &status, 0);
  std::printf("{\"b_status\":%d}\n", status);
  std::fflush(stdout);
  ::close(death[0]);
  ::close(death[1]);
}

}  // namespace

int main() {
  scenario("ipc, A killed", ipc_a, ipc_b, false);
  scenario("ipc, A frees", ipc_a, ipc_b, true);
  scenario("vmm, A killed", vmm_a, vmm_b, false);
  scenario("vmm, A releases", vmm_a, vmm_b, true);
  scenario(
      "pool, A killed", pool_a, [](int s, int d, bool f) { pool_b(s, d, f); }, false);
}
