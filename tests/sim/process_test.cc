// Several processes on one simulated device.
#include <sys/socket.h>

#include "tests/sim/machine.h"

namespace bulkhead::test {
namespace {

class SimProcesses : public Machine {};

constexpr std::uint64_t kGiB = 1ull << 30;

// Takes pieces of 1 GiB until there are no more; -> how many.
std::uint64_t take_all() {
  CUdeviceptr p = 0;
  std::uint64_t n = 0;
  CUresult r = CUDA_SUCCESS;
  while ((r = CU(cuMemAlloc_v2)(&p, kGiB)) == CUDA_SUCCESS) ++n;
  EXPECT_EQ(r, CUDA_ERROR_OUT_OF_MEMORY);
  return n;
}

TEST_F(SimProcesses, TwoExhaustOneDeviceAndAKilledOnesMemoryIsBack) {
  Child first{[](Child& me) {
    start();
    CUdeviceptr p = 0;
    EXPECT_EQ(CU(cuMemAlloc_v2)(&p, 40 * kGiB), CUDA_SUCCESS);
    me.say(shown());
    me.hear();
  }};
  std::uint64_t held = 0;
  ASSERT_TRUE(first.hear(&held));
  EXPECT_EQ(held, kContext + 40 * kGiB);
  Child second{[](Child& me) {
    start();
    me.say(take_all());
    me.hear();  // the other is dead now
    me.say(take_all());
    me.hear();
  }};
  std::uint64_t n = 0;
  ASSERT_TRUE(second.hear(&n));
  const std::uint64_t left = kTotal - 2 * 552402944ull - 40 * kGiB;
  EXPECT_EQ(n, left / kGiB);
  EXPECT_EQ(first.end(SIGKILL), SIGKILL);
  second.say();
  ASSERT_TRUE(second.hear(&n));
  EXPECT_EQ(n, (kTotal - 552402944ull) / kGiB - left / kGiB);
  second.say();
  EXPECT_EQ(second.end(), 0);
}

TEST_F(SimProcesses, NvmlListsEachWithItsPidAndForgetsTheDead) {
  const auto body = [](Child& me) {
    start();
    me.say();
    me.hear();
  };
  Child a{body}, b{body};
  ASSERT_TRUE(a.hear());
  ASSERT_TRUE(b.hear());
  Child watcher{[&](Child& me) {
    EXPECT_EQ(shown(a.pid()), kContext);
    EXPECT_EQ(shown(b.pid()), kContext);
    EXPECT_EQ(shown(), 0u) << "a process without a context is not listed";
    me.say();
    me.hear();
    EXPECT_EQ(shown(a.pid()), 0u);
    EXPECT_EQ(shown(b.pid()), kContext);
  }};
  ASSERT_TRUE(watcher.hear());
  a.end(SIGKILL);
  watcher.say();
  EXPECT_EQ(watcher.end(), 0);
  b.say();
  EXPECT_EQ(b.end(), 0);
}

// The rest of a batch serves the managed memory of any process; the dead one's share goes with it.
TEST_F(SimProcesses, ManagedMemoryOfAllSharesBatches) {
  const auto body = [](Child& me) {
    start();
    CUdeviceptr p = 0;
    me.say();
    me.hear();
    EXPECT_EQ(CU(cuMemAllocManaged)(&p, 100 * kMiB, CU_MEM_ATTACH_GLOBAL), CUDA_SUCCESS);
    EXPECT_EQ(shown(), kContext);
    me.say();
    me.hear();
  };
  Child a{body}, b{body};
  ASSERT_TRUE(a.hear() && b.hear());
  Child watcher{[](Child& me) {
    start();
    const std::uint64_t all = free_bytes();
    while (me.say(all - free_bytes()) && me.hear()) {
    }
  }};
  std::uint64_t bytes = 0;
  ASSERT_TRUE(watcher.hear(&bytes));
  EXPECT_EQ(bytes, 0u);
  a.say();
  ASSERT_TRUE(a.hear());
  ASSERT_TRUE(watcher.say() && watcher.hear(&bytes));
  EXPECT_EQ(bytes, 128 * kMiB);
  b.say();
  ASSERT_TRUE(b.hear());
  ASSERT_TRUE(watcher.say() && watcher.hear(&bytes));
  EXPECT_EQ(bytes, 256 * kMiB) << "200 MiB in batches of 128";
  a.end(SIGKILL);
  ASSERT_TRUE(watcher.say() && watcher.hear(&bytes));
  EXPECT_EQ(bytes, (128 - 518) * kMiB - 9240576) << "and its context";
  b.say();
  EXPECT_EQ(b.end(), 0);
  watcher.end(SIGKILL);
}

TEST_F(SimProcesses, AnIpcHandleSharesBytesAndOutlivesItsExporter) {
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  Child exporter{[&](Child& me) {
    start();
    CUdeviceptr p = 0;
    CUipcMemHandle h{};
    EXPECT_EQ(CU(cuMemAlloc_v2)(&p, 8 * kMiB), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemsetD32_v2)(p, 0xabcd, 16), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuIpcGetMemHandle)(&h, p), CUDA_SUCCESS);
    EXPECT_EQ(shown(), kContext + 8 * kMiB);
    EXPECT_EQ(write(pair[0], &h, sizeof h), static_cast<ssize_t>(sizeof h));
    me.hear();
    unsigned word = 0;
    EXPECT_EQ(CU(cuMemcpyDtoH_v2)(&word, p, 4), CUDA_SUCCESS);
    EXPECT_EQ(word, 77u) << "the importer wrote here";
    me.say();
    me.hear();
  }};
  Child importer{[&](Child& me) {
    start();
    CUipcMemHandle h{};
    EXPECT_EQ(read(pair[1], &h, sizeof h), static_cast<ssize_t>(sizeof h));
    const std::uint64_t before = free_bytes();
    CUdeviceptr p = 0;
    ASSERT_EQ(CU(cuIpcOpenMemHandle_v2)(&p, h, 1), CUDA_SUCCESS);
    EXPECT_EQ(free_bytes(), before) << "charged to the device once";
    unsigned word = 0;
    EXPECT_EQ(CU(cuMemcpyDtoH_v2)(&word, p, 4), CUDA_SUCCESS);
    EXPECT_EQ(word, 0xabcdu);
    EXPECT_EQ(CU(cuMemsetD32_v2)(p, 77, 1), CUDA_SUCCESS);
    me.say();
    me.hear();  // the exporter was killed
    EXPECT_EQ(CU(cuMemcpyDtoH_v2)(&word, p, 4), CUDA_SUCCESS);
    EXPECT_EQ(word, 77u);
    EXPECT_EQ(free_bytes(), before + 552402944) << "only the exporter's context came back";
    EXPECT_EQ(CU(cuIpcCloseMemHandle)(p), CUDA_SUCCESS);
    EXPECT_EQ(free_bytes(), before + 552402944 + 8 * kMiB);
  }};
  ASSERT_TRUE(importer.hear());
  exporter.say();
  ASSERT_TRUE(exporter.hear());
  exporter.end(SIGKILL);
  importer.say();
  EXPECT_EQ(importer.end(), 0);
  close(pair[0]);
  close(pair[1]);
}

TEST_F(SimProcesses, ADescriptorCarriesVirtualMemoryToAnother) {
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  constexpr std::size_t kBytes = 4 * kMiB;
  const auto map = [](CUmemGenericAllocationHandle h) {
    CUdeviceptr at = 0;
    const CUmemAccessDesc both{{CU_MEM_LOCATION_TYPE_DEVICE, 0},
                               CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    EXPECT_EQ(CU(cuMemAddressReserve)(&at, kBytes, 0, 0, 0), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemMap)(at, kBytes, 0, h, 0), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemSetAccess)(at, kBytes, &both, 1), CUDA_SUCCESS);
    return at;
  };
  const auto send_fd = [&](int fd) {
    char byte = 0, control[CMSG_SPACE(sizeof(int))] = {};
    iovec io{&byte, 1};
    msghdr m{};
    m.msg_iov = &io;
    m.msg_iovlen = 1;
    m.msg_control = control;
    m.msg_controllen = sizeof control;
    cmsghdr* const c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    *reinterpret_cast<int*>(CMSG_DATA(c)) = fd;
    return sendmsg(pair[0], &m, 0) == 1;
  };
  const auto receive_fd = [&] {
    char byte = 0, control[CMSG_SPACE(sizeof(int))] = {};
    iovec io{&byte, 1};
    msghdr m{};
    m.msg_iov = &io;
    m.msg_iovlen = 1;
    m.msg_control = control;
    m.msg_controllen = sizeof control;
    if (recvmsg(pair[1], &m, 0) != 1 || CMSG_FIRSTHDR(&m) == nullptr) return -1;
    return *reinterpret_cast<int*>(CMSG_DATA(CMSG_FIRSTHDR(&m)));
  };
  Child exporter{[&](Child& me) {
    start();
    CUmemAllocationProp prop{};
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    CUmemGenericAllocationHandle h = 0;
    ASSERT_EQ(CU(cuMemCreate)(&h, kBytes, &prop, 0), CUDA_SUCCESS);
    EXPECT_EQ(CU(cuMemsetD32_v2)(map(h), 4711, kBytes / 4), CUDA_SUCCESS);
    int fd = -1;
    ASSERT_EQ(CU(cuMemExportToShareableHandle)(&fd, h, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
              CUDA_SUCCESS);
    EXPECT_EQ(shown(), kContext + kBytes);
    EXPECT_TRUE(send_fd(fd));
    me.hear();
  }};
  Child importer{[&](Child&) {
    start();
    const int fd = receive_fd();
    const std::uint64_t before = free_bytes();
    CUmemGenericAllocationHandle h = 0;
    ASSERT_EQ(
        CU(cuMemImportFromShareableHandle)(&h, reinterpret_cast<void*>(static_cast<intptr_t>(fd)),
                                           CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
        CUDA_SUCCESS);
    unsigned word = 0;
    EXPECT_EQ(CU(cuMemcpyDtoH_v2)(&word, map(h) + kBytes - 4, 4), CUDA_SUCCESS);
    EXPECT_EQ(word, 4711u);
    EXPECT_EQ(free_bytes(), before);
  }};
  EXPECT_EQ(importer.end(), 0);
  exporter.say();
  EXPECT_EQ(exporter.end(), 0);
  close(pair[0]);
  close(pair[1]);
}

TEST_F(SimProcesses, AForkedChildMustNotUseTheParentsDriver) {
  run([] {
    start();
    const pid_t pid = fork();
    if (pid == 0) {
      CUdeviceptr p = 0;
      _exit(CU(cuMemAlloc_v2)(&p, 1) == CUDA_ERROR_NOT_INITIALIZED ? 0 : 1);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(shown(), kContext) << "the child's end took nothing away";
  });
}

}  // namespace
}  // namespace bulkhead::test
