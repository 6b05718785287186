#include "hook/sniff.h"

#include <signal.h>
#include <sys/auxv.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "hook/private_lock.h"
#include "shm/files.h"

namespace bulkhead::hook {
namespace {

constexpr int kUnread = -2;
constinit std::atomic<int> pipe_fd{kUnread};  // relaxed: the number and the inode are all there is
constinit std::atomic<std::uint64_t> pipe_inode{0};

// FD:INODE. The inode tells our pipe from what the program may have opened under the number since.
void read_variable() noexcept {
  int fd = -1;
  std::uint64_t inode = 0;
  const char* text = ::getauxval(AT_SECURE) != 0 ? nullptr : std::getenv("BULKHEAD_SNIFF");
  if (text != nullptr && text[0] >= '0' && text[0] <= '9') {
    char* end = nullptr;
    const unsigned long number = std::strtoul(text, &end, 10);
    if (*end == ':' && number < 1u << 20) {
      fd = static_cast<int>(number);
      inode = std::strtoul(end + 1, nullptr, 10);
    }
  }
  pipe_inode.store(inode, std::memory_order_relaxed);
  pipe_fd.store(fd, std::memory_order_relaxed);
}

bool still_the_pipe(int fd) noexcept {
  struct stat st {};
  return shm::stat_fd(fd, st) && S_ISFIFO(st.st_mode) &&
         st.st_ino == pipe_inode.load(std::memory_order_relaxed);  // a number, checked by use
}

// A reader that went away must not kill the program: SIGPIPE is taken back before it is delivered.
void write_line(int fd, const char* line, std::size_t length) noexcept {
  sigset_t pipe_only, before, pending;
  sigemptyset(&pipe_only);
  sigaddset(&pipe_only, SIGPIPE);
  sigpending(&pending);
  const bool was_pending = sigismember(&pending, SIGPIPE) == 1;
  ::pthread_sigmask(SIG_BLOCK, &pipe_only, &before);
  if (::write(fd, line, length) < 0 && errno == EPIPE && !was_pending) {
    const timespec now{};
    ::sigtimedwait(&pipe_only, nullptr, &now);
    pipe_fd.store(-1, std::memory_order_relaxed);  // a number alone: nothing is published by it
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void append(char* line, std::size_t& at, const char* text, std::size_t most) noexcept {
  for (std::size_t i = 0; text[i] != 0 && i < most; ++i) {
    line[at++] = text[i] > ' ' && text[i] < 127 ? text[i] : '?';
  }
}

void append_number(char* line, std::size_t& at, unsigned value) noexcept {
  char digits[10];
  unsigned count = 0;
  do {
    digits[count++] = static_cast<char>('0' + value % 10);
    value /= 10;
  } while (value != 0);
  while (count > 0) line[at++] = digits[--count];
}

}  // namespace

void sniff(Door door, const char* name, int version, Answer answer) noexcept {
  // relaxed throughout: the number is all that is shared, and still_the_pipe() checks it
  if (pipe_fd.load(std::memory_order_relaxed) == -1) [[likely]]
    return;
  const Undisturbed keep;
  if (pipe_fd.load(std::memory_order_relaxed) == kUnread) read_variable();
  const int fd = pipe_fd.load(std::memory_order_relaxed);
  if (fd < 0 || !still_the_pipe(fd)) return;
  constexpr const char* kDoors[] = {"dlsym ", "dlvsym ", "procaddress "};
  constexpr const char* kAnswers[] = {" none\n", " driver\n", " ours\n"};
  char line[256];
  std::size_t at = 0;
  const auto word = [&](const char* w) {
    std::memcpy(line + at, w, std::strlen(w));
    at += std::strlen(w);
  };
  word(kDoors[static_cast<int>(door)]);
  append(line, at, name, 128);
  line[at++] = ' ';
  append_number(line, at, version < 0 ? 0u : static_cast<unsigned>(version));
  word(kAnswers[static_cast<int>(answer)]);
  write_line(fd, line, at);
}

}  // namespace bulkhead::hook
