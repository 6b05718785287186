#include "bench/worker.h"

#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace bulkhead::bench {
namespace {

constexpr Work kWorks[] = {
    {"calls", work_calls},   {"async", work_async},     {"denied", work_denied},
    {"member", work_member}, {"start", work_start},     {"gate", work_gate},
    {"fill", work_fill},     {"export", work_export},   {"race", work_race},
    {"hold", work_hold},     {"take", work_take},       {"churn", work_churn},
    {"probe", work_probe},   {"steady", work_steady},   {"launch", work_launch},
    {"load", work_load},     {"request", work_request}, {"log", work_log},
    {"trade", work_trade},   {"copies", work_copies},   {"closed", work_closed},
};

}  // namespace

std::string Params::text(const std::string& key, const std::string& missing) const {
  const auto at = map_.find(key);
  return at == map_.end() ? missing : at->second;
}

std::uint64_t Params::number(const std::string& key, std::uint64_t missing) const {
  const auto at = map_.find(key);
  return at == map_.end() ? missing : std::strtoull(at->second.c_str(), nullptr, 10);
}

void Worker::say(char step) const noexcept {
  if (::write(kSocketFd, &step, 1) != 1) ::_exit(3);  // the bench is gone
}

bool Worker::wait() const noexcept {
  char byte = 0;
  return ::read(kSocketFd, &byte, 1) == 1;
}

void Worker::stay_on_core() const noexcept {
  const std::uint64_t core = params.number("core", ~0ull);
  if (core >= CPU_SETSIZE) return;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(core, &one);
  (void)::sched_setaffinity(0, sizeof one, &one);  // refused: it goes where it is put
}

void Worker::log_round(double ns) const noexcept {
  if (out->log_count == kLogEntries) return;
  out->log[out->log_count++] = {0, 0, static_cast<std::uint64_t>(ns * 1000), LogEntry::kGranted};
}

int Worker::fail(const char* what, CUresult code) const noexcept {
  out->code = static_cast<std::int32_t>(code);
  std::snprintf(out->error, sizeof out->error, "%s", what);
  return 1;
}

bool Worker::begin() {
  if (!cu.open()) return fail(cu.missing, CUDA_ERROR_NOT_FOUND), false;
  const char* step = "";
  CUresult r = cu.start(&step);
  if (r != CUDA_SUCCESS) return fail(step, r), false;
  bool kernel = false;
  r = cu.first_kernel(&kernel);
  if (r != CUDA_SUCCESS) return fail("first kernel", r), false;
  return true;
}

int worker_main(int argc, char** argv) {
  Worker w;
  // A worker under callgrind or started by hand has no block: it gets one of its own.
  void* at = ::mmap(nullptr, sizeof(Block), PROT_READ | PROT_WRITE, MAP_SHARED, kBlockFd, 0);
  if (at == MAP_FAILED)
    at = ::mmap(nullptr, sizeof(Block), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return 1;
  w.out = static_cast<Block*>(at);
  w.out->pid = ::getpid();
  if (argc < 1) return 2;
  for (int i = 1; i < argc; ++i) {
    const char* eq = std::strchr(argv[i], '=');
    if (eq != nullptr)
      w.params.set(std::string(static_cast<const char*>(argv[i]), eq), std::string(eq + 1));
  }
  for (const Work& work : kWorks) {
    if (std::strcmp(work.name, argv[0]) != 0) continue;
    const int status = work.run(w);
    if (status != 0 && w.out->error[0] != 0 && w.params.number("loud") != 0)
      std::fprintf(stderr, "%s: %s (code %d)\n", argv[0], w.out->error, w.out->code);
    // No exit handlers: what a library does while a process ends is not what the cases are about.
    std::fflush(nullptr);
    ::_exit(status);
  }
  return 2;
}

}  // namespace bulkhead::bench
