#include "daemon/sight/privileges.h"

#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pwd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>

namespace bulkhead::daemon {
namespace {

constexpr rlim_t kMostDescriptors = 96;  // listeners, 48 connections, and room

Status failed(const char* what) { return Status{Errc::kIo, errno, what}; }

Status become_nobody() {
  const passwd* who = ::getpwnam("bulkhead");
  if (who == nullptr) who = ::getpwnam("nobody");
  if (who == nullptr || who->pw_uid == 0) {
    return Status{Errc::kNotFound, 0, "neither a user `bulkhead` nor `nobody` to run as"};
  }
  const uid_t uid = who->pw_uid;
  const gid_t gid = who->pw_gid;
  if (::setgroups(0, nullptr) != 0) return failed("setgroups");
  if (::setresgid(gid, gid, gid) != 0) return failed("setresgid");
  if (::setresuid(uid, uid, uid) != 0) return failed("setresuid");
  if (::setuid(0) == 0 || ::geteuid() == 0) return failed("privileges came back");
  return {};
}

#if defined(__x86_64__)
constexpr std::uint32_t kArch = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr std::uint32_t kArch = AUDIT_ARCH_AARCH64;
#endif

// What malloc, poll, sockets at hand, clocks and the end need.
constexpr std::array kAllowed {
  __NR_read, __NR_write, __NR_close, __NR_ppoll,
#if defined(__NR_poll)
      __NR_poll,
#endif
      __NR_accept4, __NR_recvfrom, __NR_sendto, __NR_shutdown, __NR_mmap, __NR_munmap, __NR_mremap,
      __NR_madvise, __NR_brk, __NR_futex, __NR_clock_gettime, __NR_restart_syscall,
      __NR_rt_sigaction, __NR_rt_sigreturn, __NR_rt_sigprocmask, __NR_exit, __NR_exit_group,
      __NR_getpid, __NR_getppid, __NR_gettid, __NR_tgkill, __NR_uname,
};

}  // namespace

Status drop_privileges(int parent_pid, std::uint64_t most_file_bytes) {
  if (::geteuid() == 0) {
    const Status nobody = become_nobody();
    if (!nobody.ok()) return nobody;
  }
  const rlimit files{kMostDescriptors, kMostDescriptors};
  const rlimit none{0, 0}, bytes{most_file_bytes, most_file_bytes};
  if (::setrlimit(RLIMIT_NOFILE, &files) != 0) return failed("limit descriptors");
  if (::setrlimit(RLIMIT_CORE, &none) != 0 || ::setrlimit(RLIMIT_FSIZE, &bytes) != 0)
    return failed("limit files");
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return failed("no new privileges");
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return failed("no dumps");
  // After the change of user, which would clear it.
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) return failed("die with the parent");
  if (parent_pid != 0 && ::getppid() != parent_pid)
    return Status{Errc::kNotFound, 0, "the parent is gone"};
  return {};
}

Status confine() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return Status{Errc::kNotReady, 0, "a sanitizer needs more system calls"};
#else
  constexpr std::size_t kCalls = kAllowed.size();
  std::array<sock_filter, 4 + kCalls + 2> code{};
  std::size_t at = 0;
  code[at++] = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch));
  code[at++] = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kArch, 1, 0);
  code[at++] = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
  code[at++] = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr));
  for (std::size_t i = 0; i < kCalls; ++i) {
    const auto to_allow = static_cast<std::uint8_t>(kCalls - i);  // over the rest and the refusal
    code[at++] =
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(kAllowed[i]), to_allow, 0);
  }
  code[at++] = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
  code[at++] = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  const sock_fprog program{static_cast<unsigned short>(at), code.data()};
  if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) != 0) {
    return Status{Errc::kNotReady, errno, "seccomp"};
  }
  return {};
#endif
}

}  // namespace bulkhead::daemon
