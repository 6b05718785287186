// Launches kernels of given lengths on the timed simulator in the ways that programs do, for the tests of shares:
//     compute_client hog US             one after the other until its input ends; "launches N", "ns N"
//     compute_client requests US PERIOD_US N    one each period, waited for, N or until its input ends; "p50 NS", "p99 NS"
//     compute_client storm US THREADS N         N of each thread, on streams of their own
//     compute_client streams US STREAMS N       N over so many streams
//     compute_client callbacks US N             each followed by a host function
//     compute_client capture MODE US N          captured in this mode (0 global, 1 thread, 2 relaxed) beside a thread that launches,
//                                               then launched N times
//     compute_client update US N                a graph launched and updated in place by turns
//     compute_client one US                     one kernel of that length, not waited for until its input ends
//     compute_client whole US                   one kernel of that length, waited for
//     compute_client persist                    a kernel that runs until its input ends
//     compute_client parts                      how many multiprocessors streams of each kind have, before and after a reset
// It says "ready 1" before the first launch, reads a line, and goes.
#include <dlfcn.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "abi/table_macros.h"
#include "base/clock.h"
#include "kernels/kernels.h"
#include "tests/hook/client.h"

extern "C" {
#define BH_HOOK(name, since, family, ...) CUresult name(BH_PARAMS(__VA_ARGS__));
#define BH_PASS(name, since, reason, ...) CUresult name(BH_PARAMS(__VA_ARGS__));
#include "abi/cuda.def"
}

namespace {

template <class F>
F* entry(const char* name) {
  static void* const lib = dlopen("libcuda.so.1", RTLD_NOW);
  auto* const f = reinterpret_cast<F*>(dlsym(lib, name));
  if (f == nullptr) std::exit(3);
  return f;
}
#define CU(name) entry<decltype(name)>(#name)

void must(CUresult r) {
  if (r == CUDA_SUCCESS) return;
  std::fprintf(stderr, "driver: %u\n", static_cast<unsigned>(r));
  std::exit(2);
}

CUcontext context{};
CUmodule module{};
CUfunction spin{};

CUstream new_stream() {
  CUstream s{};
  must(CU(cuStreamCreate)(&s, 1));
  return s;
}

// Of `us` in all: what the simulator adds to each kernel of ours is taken off.
CUresult launch(std::uint64_t us, CUstream s) {
  static auto* const run = CU(cuLaunchKernel);
  std::uint64_t ns = us * 1000 - 2000;
  void* args[] = {&ns};
  return run(spin, 264, 1, 1, 1024, 1, 1, 0, s, args, nullptr);
}

bool hear() {
  for (int c = 0; (c = std::getchar()) != EOF;)
    if (c == '\n') return true;
  return false;
}
void go() {
  say("ready", 1);
  std::fflush(stdout);
  if (!hear()) std::exit(4);
}

std::atomic<bool> ended{false};
void hear_the_end() {
  std::thread{[] {
    while (hear()) {
    }
    ended.store(true);
  }}.detach();
}

int hog(std::uint64_t us) {
  const CUstream s = new_stream();
  hear_the_end();
  const std::uint64_t start = bulkhead::monotonic_ns();
  std::uint64_t n = 0;
  for (; !ended.load(); ++n) {
    must(launch(us, s));
    if (n == 0) say("began", 1), std::fflush(stdout);
  }
  must(CU(cuCtxSynchronize)());
  say("launches", n);
  say("ns", bulkhead::monotonic_ns() - start);
  return 0;
}

int requests(std::uint64_t us, std::uint64_t period_us, unsigned count) {
  const CUstream s = new_stream();
  std::vector<std::uint64_t> took;
  hear_the_end();
  std::uint64_t due = bulkhead::monotonic_ns();
  for (unsigned i = 0; i < count && !ended.load(); ++i, due += period_us * 1000) {
    const timespec at{static_cast<time_t>(due / 1'000'000'000),
                      static_cast<long>(due % 1'000'000'000)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr) == EINTR) {
    }
    const std::uint64_t begin = bulkhead::monotonic_ns();
    must(launch(us, s));
    must(CU(cuStreamSynchronize)(s));
    took.push_back(bulkhead::monotonic_ns() - begin);
  }
  if (took.empty()) return 0;
  std::sort(took.begin(), took.end());
  say("p50", took[took.size() / 2]);
  say("p99", took[took.size() * 99 / 100]);
  return 0;
}

int storm(std::uint64_t us, unsigned threads, unsigned each) {
  std::vector<std::thread> all;
  for (unsigned t = 0; t < threads; ++t) {
    all.emplace_back([=] {
      must(CU(cuCtxSetCurrent)(context));
      const CUstream s = new_stream();
      for (unsigned i = 0; i < each; ++i) must(launch(us, s));
      must(CU(cuStreamSynchronize)(s));
    });
  }
  for (std::thread& t : all) t.join();
  return 0;
}

int streams(std::uint64_t us, unsigned count, unsigned n) {
  std::vector<CUstream> all;
  for (unsigned i = 0; i < count; ++i) all.push_back(new_stream());
  for (unsigned i = 0; i < n; ++i) must(launch(us, all[i % count]));
  must(CU(cuCtxSynchronize)());
  for (const CUstream s : all) must(CU(cuStreamDestroy_v2)(s));
  return 0;
}

int callbacks(std::uint64_t us, unsigned n) {
  static std::atomic<unsigned> called{0};
  const CUstream s = new_stream();
  for (unsigned i = 0; i < n; ++i) {
    must(launch(us, s));
    must(CU(cuLaunchHostFunc)(
        s, [](void*) { ++called; }, nullptr));
  }
  must(CU(cuStreamSynchronize)(s));
  say("called", called.load());
  return 0;
}

CUgraphExec capture(CUstream s, CUstreamCaptureMode mode, std::uint64_t us, unsigned kernels,
                    CUgraph* graph) {
  must(CU(cuStreamBeginCapture_v2)(s, mode));
  for (unsigned i = 0; i < kernels; ++i) must(launch(us, s));
  must(CU(cuStreamEndCapture)(s, graph));
  CUgraphExec exec{};
  must(CU(cuGraphInstantiateWithFlags)(&exec, *graph, 0));
  return exec;
}

// Another thread launches all the while, so that the library's own thread has segments to look at: its questions must not end
// the capture.
int captured(unsigned mode, std::uint64_t us, unsigned n) {
  std::atomic<bool> done{false};
  std::thread other{[&] {
    must(CU(cuCtxSetCurrent)(context));
    const CUstream s = new_stream();
    while (!done.load()) must(launch(us, s));
    must(CU(cuStreamSynchronize)(s));
  }};
  const CUstream s = new_stream();
  for (unsigned i = 0; i < n; ++i) {
    CUgraph graph{};
    const CUgraphExec exec = capture(s, static_cast<CUstreamCaptureMode>(mode), us, 3, &graph);
    must(CU(cuGraphLaunch)(exec, s));
    must(CU(cuGraphExecDestroy)(exec));
    must(CU(cuGraphDestroy)(graph));
  }
  must(CU(cuStreamSynchronize)(s));
  done.store(true);
  other.join();
  return 0;
}

int update(std::uint64_t us, unsigned n) {
  const CUstream s = new_stream();
  CUgraph shorter{}, longer{};
  const CUgraphExec exec = capture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, us, 1, &shorter);
  must(CU(cuGraphExecDestroy)(capture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, 3 * us, 1, &longer)));
  for (unsigned i = 0; i < n; ++i) {
    CUgraphExecUpdateResultInfo info{};
    must(CU(cuGraphExecUpdate_v2)(exec, i % 2 == 0 ? longer : shorter, &info));
    must(CU(cuGraphLaunch)(exec, s));
  }
  must(CU(cuStreamSynchronize)(s));
  return 0;
}

int one(std::uint64_t us) {
  must(launch(us, new_stream()));
  say("began", 1);
  std::fflush(stdout);
  while (hear()) {
  }
  return 0;
}

int whole(std::uint64_t us) {
  const CUstream s = new_stream();
  must(launch(us, s));
  say("began", 1);
  std::fflush(stdout);
  must(CU(cuStreamSynchronize)(s));
  return 0;
}

int persist() {
  CUfunction f{};
  must(CU(cuModuleGetFunction)(&f, module, "bh_persist"));
  CUdeviceptr word{};
  must(CU(cuMemAlloc_v2)(&word, 4));
  must(CU(cuMemsetD32_v2)(word, 0, 1));
  const CUstream s = new_stream(), other = new_stream();
  void* args[] = {&word};
  must(CU(cuLaunchKernel)(f, 1, 1, 1, 32, 1, 1, 0, s, args, nullptr));
  say("began", 1);
  std::fflush(stdout);
  while (hear()) {
  }
  must(CU(cuMemsetD32Async)(word, 1, 1, other));
  must(CU(cuCtxSynchronize)());
  return 0;
}

// Multiprocessors that blocks of a stream land on.
std::uint64_t width(CUstream s) {
  constexpr unsigned kWords = 64;
  CUfunction f{};
  must(CU(cuModuleGetFunction)(&f, module, "bh_smid"));
  CUdeviceptr at{};
  must(CU(cuMemAllocAsync)(&at, kWords * 4, s));
  must(CU(cuMemsetD8Async)(at, 0, kWords * 4, s));
  std::uint64_t ns = 1000;
  void* args[] = {&at, &ns};
  must(CU(cuLaunchKernel)(f, 2048, 1, 1, 1024, 1, 1, 0, s, args, nullptr));
  std::uint32_t words[kWords] = {};
  must(CU(cuMemcpyDtoHAsync_v2)(words, at, sizeof words, s));
  must(CU(cuMemFreeAsync)(at, s));
  must(CU(cuStreamSynchronize)(s));
  std::uint64_t count = 0;
  for (const std::uint32_t w : words) count += static_cast<unsigned>(__builtin_popcount(w));
  return count;
}

void tell_width(const char* name, CUresult made, CUstream s) {
  say(name, made == CUDA_SUCCESS ? width(s) : 1000 + static_cast<unsigned>(made));
  if (made == CUDA_SUCCESS && s != nullptr) must(CU(cuStreamDestroy_v2)(s));
}

void tell_parts() {
  CUstream s{};
  CUresult r = CU(cuStreamCreateWithPriority)(&s, CU_STREAM_NON_BLOCKING, -1);
  tell_width("high", r, s);
  r = CU(cuStreamCreate)(&s, CU_STREAM_NON_BLOCKING);
  tell_width("rest", r, s);
  r = CU(cuStreamCreateWithPriority)(&s, 0, -1);
  tell_width("blocking", r, s);
  tell_width("default", CUDA_SUCCESS, nullptr);
}

int divided() {
  tell_parts();
  must(CU(cuDevicePrimaryCtxReset_v2)(0));
  must(CU(cuDevicePrimaryCtxRetain)(&context, 0));
  must(CU(cuCtxSetCurrent)(context));
  must(CU(cuModuleLoadData)(&module, bulkhead::kernels::kPtx));
  tell_parts();
  CUcontext own{};
  must(CU(cuCtxCreate_v2)(&own, 0, 0));
  must(CU(cuModuleLoadData)(&module, bulkhead::kernels::kPtx));
  CUstream s{};
  const CUresult r = CU(cuStreamCreateWithPriority)(&s, CU_STREAM_NON_BLOCKING, -1);
  tell_width("own_context", r, s);
  return 0;
}

int act(const std::string& how, const std::vector<std::uint64_t>& n) {
  const auto u = [&](std::size_t i) { return static_cast<unsigned>(n[i]); };
  if (how == "hog" && n.size() == 1) return hog(n[0]);
  if (how == "requests" && n.size() == 3) return requests(n[0], n[1], u(2));
  if (how == "storm" && n.size() == 3) return storm(n[0], u(1), u(2));
  if (how == "streams" && n.size() == 3) return streams(n[0], u(1), u(2));
  if (how == "callbacks" && n.size() == 2) return callbacks(n[0], u(1));
  if (how == "capture" && n.size() == 3) return captured(u(0), n[1], u(2));
  if (how == "update" && n.size() == 2) return update(n[0], u(1));
  if (how == "one" && n.size() == 1) return one(n[0]);
  if (how == "whole" && n.size() == 1) return whole(n[0]);
  if (how == "persist" && n.empty()) return persist();
  if (how == "parts" && n.empty()) return divided();
  return 3;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 3;
  std::vector<std::uint64_t> numbers;
  for (int i = 2; i < argc; ++i) numbers.push_back(std::strtoull(argv[i], nullptr, 10));
  must(CU(cuInit)(0));
  must(CU(cuDevicePrimaryCtxRetain)(&context, 0));
  must(CU(cuCtxSetCurrent)(context));
  must(CU(cuModuleLoadData)(&module, bulkhead::kernels::kPtx));
  must(CU(cuModuleGetFunction)(&spin, module, "bh_spin"));
  go();
  const int code = act(argv[1], numbers);
  if (code == 0) say("done", 1);
  std::fflush(stdout);
  _exit(code);  // a thread may still be reading our input
}
