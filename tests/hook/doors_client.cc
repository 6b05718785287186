// A program that finds the driver by itself; each argument names one way to try.
#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "tests/hook/client.h"

namespace {

void* open_driver() { return dlopen("libcuda.so.1", RTLD_NOW); }

void total_by(void* fn) {
  size_t n = 0;
  if (fn == nullptr) {
    say("absent", 1);
    return;
  }
  say("total_result", reinterpret_cast<TotalMem>(fn)(&n, 0));
  say("total", n);
}
unsigned long long init(void* driver) { return reinterpret_cast<Init>(dlsym(driver, "cuInit"))(0); }

unsigned long long entries(const char* directory) {
  unsigned long long n = 0;
  DIR* d = opendir(directory);
  while (d != nullptr && readdir(d) != nullptr) ++n;
  closedir(d);
  return n;
}

void by_dlsym(bool version) {
  void* driver = open_driver();
  say("init", init(driver));
  total_by(version ? dlvsym(driver, "cuDeviceTotalMem_v2", "FAKE_1")
                   : dlsym(driver, "cuDeviceTotalMem_v2"));
  say("absent_function", dlsym(driver, "cuMemCreate") == nullptr);
  say("explained", dlerror() != nullptr);
  say("pass_is_real", dlsym(driver, "cuDeviceGetCount") != nullptr);
}

// libcuda in the global scope, as in a program linked with it.
void by_pseudo_handle(void* handle) {
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  say("init", init(driver));
  total_by(dlsym(handle, "cuDeviceTotalMem_v2"));
}

void without_driver() {
  say("default", dlsym(RTLD_DEFAULT, "cuInit") != nullptr);
  say("explained", dlerror() != nullptr);
  say("program", dlsym(dlopen(nullptr, RTLD_NOW), "cuInit") != nullptr);
  say("nvml", dlsym(RTLD_DEFAULT, "nvmlInit_v2") != nullptr);
  say("threads", entries("/proc/self/task") - 2);
  say("descriptors", entries("/proc/self/fd") - 3);  // . and .., and the listing's own
}

void by_proc_address() {
  void* driver = open_driver();
  say("init", init(driver));
  const auto v2 = reinterpret_cast<ProcAddress>(dlsym(driver, "cuGetProcAddress_v2"));
  void* fn = nullptr;
  CUdriverProcAddressQueryResult status{};
  say("result", v2("cuDeviceTotalMem", &fn, 12000, 0, &status));
  total_by(fn);
  void* itself = nullptr;
  v2("cuGetProcAddress", &itself, 12000, 0, &status);
  say("itself", itself == reinterpret_cast<void*>(v2));
  void* again = nullptr;
  reinterpret_cast<ProcAddress>(itself)("cuDeviceTotalMem", &again, 12000, 0, &status);
  say("same_by_itself", again == fn);
  void* one = nullptr;
  v2("cuDeviceTotalMem", &one, 2000, 0, &status);  // the 32-bit entry point is another function
  say("old_differs", one != nullptr && one != fn);
  say("old_is_ours", one == dlsym(driver, "cuDeviceTotalMem"));
  void* threads = nullptr;
  v2("cuStreamSynchronize", &threads, 12000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM,
     &status);
  say("twin", threads != nullptr && threads == dlsym(driver, "cuStreamSynchronize_ptsz"));
  void* none = nullptr;
  say("absent_result", v2("cuMemCreate", &none, 12000, 0, &status));
  say("absent_status", status);
}

std::atomic<int> right{0};
pthread_barrier_t barrier;
void* storm_thread(void* driver) {
  pthread_barrier_wait(&barrier);
  size_t n = 0;
  const bool ok = init(driver) == 0 &&
                  reinterpret_cast<TotalMem>(dlsym(driver, "cuDeviceTotalMem_v2"))(&n, 0) == 0;
  if (ok && n == 1ull << 30) ++right;
  return nullptr;
}
void storm() {
  constexpr int kThreads = 32;
  void* driver = open_driver();
  pthread_t t[kThreads];
  pthread_barrier_init(&barrier, nullptr, kThreads);
  for (auto& thread : t) pthread_create(&thread, nullptr, storm_thread, driver);
  for (auto& thread : t) pthread_join(thread, nullptr);
  say("right", static_cast<unsigned long long>(right.load()));
}

// A cancellation is pending while the process binds, which opens and reads files.
void* cancelled_thread(void* driver) {
  pthread_cancel(pthread_self());
  if (init(driver) == 0) right = 1;
  pthread_testcancel();
  right = 2;
  return nullptr;
}
void cancelled() {
  pthread_t t;
  pthread_create(&t, nullptr, cancelled_thread, open_driver());
  pthread_join(t, nullptr);
  say("right", static_cast<unsigned long long>(right.load()));
}

// Lets the test look at the region: says ready, then waits for a line.
void hold() {
  std::puts("ready");
  std::fflush(stdout);
  static_cast<void>(std::getchar());
}

void with_fork(bool parent_first) {
  void* driver = open_driver();
  if (parent_first) say("parent_init", init(driver));
  std::fflush(stdout);
  int pipe_fds[2];
  if (pipe(pipe_fds) != 0) return;
  const pid_t child = fork();
  if (child == 0) {
    say("child_init", init(driver));
    total_by(dlsym(driver, "cuDeviceTotalMem_v2"));
    std::fflush(stdout);
    char c = 0;
    static_cast<void>(!read(pipe_fds[0], &c, 1));
    _exit(0);
  }
  if (!parent_first) say("parent_init", init(driver));
  hold();
  static_cast<void>(!write(pipe_fds[1], "x", 1));
  int status = 0;
  waitpid(child, &status, 0);
  say("child_status", static_cast<unsigned long long>(status));
}

void with_vfork(const char* self) {
  void* driver = open_driver();
  say("init", init(driver));
  std::fflush(stdout);
  int status = 0;
  const pid_t child = vfork();
  if (child == 0) {
    execl(self, self, "dlsym", static_cast<char*>(nullptr));
    _exit(127);
  }
  waitpid(child, &status, 0);
  say("child_status", static_cast<unsigned long long>(status));
  total_by(dlsym(driver, "cuDeviceTotalMem_v2"));
}

void closing() {
  void* driver = open_driver();
  void* ours = dlopen(std::getenv("LD_PRELOAD"), RTLD_NOW);
  say("init", init(driver));
  void* fn = dlsym(driver, "cuDeviceTotalMem_v2");
  dlclose(ours);
  dlclose(ours);
  dlclose(driver);
  dlclose(driver);
  total_by(fn);
  total_by(dlsym(open_driver(), "cuDeviceTotalMem_v2"));
}

void deep_bind(const char* plugin) {
  void* p = dlopen(plugin, RTLD_NOW | RTLD_DEEPBIND);
  say("loaded", p != nullptr);
  const auto fn = reinterpret_cast<bool (*)()>(dlsym(p, "interposer_next_is_not_itself"));
  say("called", fn != nullptr && (fn(), true));
  by_dlsym(false);
}

// The preloaded interposer asks for the next of its own function: a name that is none of ours.
void keeps_caller() {
  const auto fn =
      reinterpret_cast<bool (*)()>(dlsym(RTLD_DEFAULT, "interposer_next_is_not_itself"));
  say("kept", fn != nullptr && fn());
}

void all_totals() {
  void* driver = open_driver();
  say("init", init(driver));
  int n = 0;
  reinterpret_cast<CUresult (*)(int*)>(dlsym(driver, "cuDeviceGetCount"))(&n);
  const auto total = reinterpret_cast<TotalMem>(dlsym(driver, "cuDeviceTotalMem_v2"));
  for (int i = 0; i < n; ++i) {
    size_t bytes = 0;
    total(&bytes, i);
    say("total", bytes);
  }
}

}  // namespace

int main(int count, char** args) {
  const char* way = count > 1 ? args[1] : "";
  if (!std::strcmp(way, "dlsym")) by_dlsym(false);
  if (!std::strcmp(way, "dlvsym")) by_dlsym(true);
  if (!std::strcmp(way, "next")) by_pseudo_handle(RTLD_NEXT);
  if (!std::strcmp(way, "default")) by_pseudo_handle(RTLD_DEFAULT);
  if (!std::strcmp(way, "without_driver")) without_driver();
  if (!std::strcmp(way, "proc_address")) by_proc_address();
  if (!std::strcmp(way, "storm")) storm();
  if (!std::strcmp(way, "cancelled")) cancelled();
  if (!std::strcmp(way, "fork")) with_fork(true);
  if (!std::strcmp(way, "fork_first")) with_fork(false);
  if (!std::strcmp(way, "vfork")) with_vfork(args[0]);
  if (!std::strcmp(way, "closing")) closing();
  if (!std::strcmp(way, "deep_bind")) deep_bind(args[2]);
  if (!std::strcmp(way, "caller")) keeps_caller();
  if (!std::strcmp(way, "totals")) all_totals();
  if (!std::strcmp(way, "hold")) {
    say("init", init(open_driver()));
    hold();
  }
}
