// Runs a child up to its Nth instruction after a mark, and kills it there.
#pragma once
#include <sys/ptrace.h>
#include <sys/user.h>

#include "tests/storm/storm.h"

#if defined(__x86_64__)
namespace bulkhead::shm {

// The child stops itself here, before and after what is stepped through.
[[gnu::always_inline]] inline void mark() { asm volatile("int3" ::: "memory"); }

enum class End { kKilled, kRanThrough, kBroken };

// Runs `body` in a child up to its first mark, then n instructions more, then kills it. kRanThrough: the second
// mark came first (it is killed there).
template <class Body, class Between>
inline End kill_after(long n, const Body& body, long more, const Between& between) {
  const pid_t child = spawn([&] {
    ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    body();
  });
  int status = 0;
  End end = End::kBroken;
  if (::waitpid(child, &status, 0) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP) {
    end = End::kKilled;
    for (long i = 0; i < n + more && end == End::kKilled; ++i) {
      if (i == n) between();
      if (::ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr) != 0 ||
          ::waitpid(child, &status, 0) != child || !WIFSTOPPED(status) ||
          WSTOPSIG(status) != SIGTRAP) {
        end = End::kBroken;
      }
    }
    // n grows by one from call to call, so the mark is met exactly, never run over
    user_regs_struct regs{};
    ::ptrace(PTRACE_GETREGS, child, nullptr, &regs);
    const long code = ::ptrace(PTRACE_PEEKTEXT, child, reinterpret_cast<void*>(regs.rip), nullptr);
    if (end == End::kKilled && (code & 0xff) == 0xcc) end = End::kRanThrough;
  }
  ::kill(child, SIGKILL);
  ::ptrace(PTRACE_DETACH, child, nullptr, nullptr);
  wait_for(child);
  return end;
}

template <class Body>
inline End kill_after(long n, const Body& body) {
  return kill_after(n, body, 0, [] {});
}

}  // namespace bulkhead::shm
#endif
