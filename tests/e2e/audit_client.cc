// A program of a tenant that records transfers, with the library's own objects linked in: audit_client FILE THREADS ENTRIES [fork|exec|stopped|slow]
// Each thread publishes ENTRIES entries of its own numbers (source = thread << 32 | n, destination = the process's number)
// and notes in FILE, shared and mapped, how many were told to be recorded: what it says survives its SIGKILL.
// It prints "init CODE", and at the end "done". With `fork` a child, which finds no lanes of its own, starts the same program
// on FILE.child; with `exec` the process itself does so at its end, and is another session then. The file that AUDIT_CLIENT_MAPS names is mapped to be read.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "hook/audit.h"
#include "hook/next.h"
#include "hook/process.h"

namespace {

using bulkhead::hook::AuditEvent;
using bulkhead::hook::AuditTicket;

struct Row {  // one thread
  std::atomic<std::uint64_t> pid, recorded, refused;
};

constexpr timespec kPause{0, 2'000'000};
bool slow =
    false;  // it rests behind each sixteen: a life long enough to be killed in, a log short enough to be read

void publish(Row& row, std::uint64_t thread, std::uint64_t entries) {
  row.pid.store(static_cast<std::uint64_t>(::getpid()));
  for (std::uint64_t n = 0; n < entries; ++n) {
    AuditEvent event;
    event.op = bulkhead::abi::AuditOp::k_cuMemcpy;
    event.direction = bulkhead::abi::Direction::kHostToDevice;
    event.source = thread << 32 | n;
    event.destination = static_cast<std::uint64_t>(::getpid());
    event.bytes = 4096;
    AuditTicket ticket;
    const bool allowed = bulkhead::hook::audit_before(event, ticket) == CUDA_SUCCESS;
    if (ticket.lane != nullptr) row.recorded.fetch_add(1);
    if (!allowed) row.refused.fetch_add(1);
    if (slow && n % 16 == 15) ::nanosleep(&kPause, nullptr);
  }
}

void work(Row* rows, unsigned threads, std::uint64_t entries) {
  std::vector<std::thread> all;
  for (unsigned t = 0; t < threads; ++t) {
    all.emplace_back([=] { publish(rows[t], t, entries); });
  }
  for (std::thread& t : all) t.join();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  const unsigned threads = static_cast<unsigned>(std::atoi(argv[2]));
  const std::uint64_t entries = std::strtoull(argv[3], nullptr, 10);
  const bool forks = argc > 4 && std::strcmp(argv[4], "fork") == 0;
  const bool execs = argc > 4 && std::strcmp(argv[4], "exec") == 0;
  slow = argc > 4 && std::strcmp(argv[argc - 1], "slow") == 0;
  const std::size_t bytes = threads * sizeof(Row);
  const int fd = ::open(argv[1], O_RDWR | O_CREAT, 0600);
  if (fd < 0 || ::ftruncate(fd, static_cast<off_t>(bytes)) != 0) return 3;
  void* at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) return 3;
  Row* rows = static_cast<Row*>(at);
  if (const char* only_bytes = std::getenv("AUDIT_CLIENT_MAPS"); only_bytes != nullptr) {
    const int other = ::open(only_bytes, O_RDONLY | O_CLOEXEC);
    if (::mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, other, 0) == MAP_FAILED) return 3;
  }
  ::dlopen("libcuda.so.1", RTLD_NOW);  // the simulated one
  std::printf("init %d\n", static_cast<int>(::cuInit(0)));
  std::fflush(stdout);
  const auto again = [&] {
    const std::string file = std::string{argv[1]} + ".child";
    (void)!std::freopen("/dev/null", "r", stdin);
    (void)!std::freopen("/dev/null", "w", stdout);
    ::execl("/proc/self/exe", argv[0], file.c_str(), argv[2], argv[3], nullptr);
    ::_exit(6);
  };
  AuditEvent hello;  // the parent has lanes before it forks
  hello.op = bulkhead::abi::AuditOp::k_cuMemcpyPeer;
  AuditTicket mine, childs;
  if (forks && bulkhead::hook::audit_before(hello, mine) != CUDA_SUCCESS) return 7;
  const pid_t child = forks ? ::fork() : 1;
  if (child == 0) {
    // CUDA is of no use here before exec, and the parent's lanes are not mapped: nothing may be written to them
    (void)!static_cast<int>(bulkhead::hook::audit_before(hello, childs));
    if (childs.lane != nullptr && childs.lane == mine.lane && childs.sequence > 0) ::_exit(8);
    again();
  }
  if (argc > 4 &&
      std::strcmp(argv[4], "stopped") == 0) {  // the test stops the daemon when we have a lane
    (void)!static_cast<int>(bulkhead::hook::audit_before(hello, mine));
    std::puts("ready");
    std::fflush(stdout);
    while (std::getchar() != '\n') {
    }
  }
  work(rows, threads, entries);
  int status = 0;
  if (forks && (::waitpid(child, &status, 0) != child || status != 0)) return 5;
  if (execs) {
    std::puts("done");
    std::fflush(stdout);
    again();
  }
  std::puts("done");
  std::fflush(stdout);
  std::getchar();  // its lanes stay until the test has looked
  return 0;
}
