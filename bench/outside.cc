#include "bench/outside.h"

#include <dlfcn.h>

#include <algorithm>

namespace bulkhead::bench {
namespace {

template <class F>
F resolve(void* library, const char* name) {
  return reinterpret_cast<F>(::dlsym(library, name));
}

}  // namespace

bool Outside::open(const Lab& lab) {
  const std::string path = lab.sim.empty() ? "libnvidia-ml.so.1" : lab.sim + "/libnvidia-ml.so.1";
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return false;
  auto init = resolve<int (*)()>(library, "nvmlInit_v2");
  auto handle = resolve<int (*)(unsigned, void**)>(library, "nvmlDeviceGetHandleByIndex_v2");
  processes_ = resolve<decltype(processes_)>(library, "nvmlDeviceGetComputeRunningProcesses_v3");
  memory_ = resolve<decltype(memory_)>(library, "nvmlDeviceGetMemoryInfo");
  if (init == nullptr || handle == nullptr || processes_ == nullptr || memory_ == nullptr)
    return false;
  if (init() != 0 || handle(0, &device_) != 0) device_ = nullptr;
  return device_ != nullptr;
}

std::uint64_t Outside::used_by(const std::vector<pid_t>& pids) const {
  if (!ok()) return 0;
  std::vector<Process> list(1200);
  unsigned n = static_cast<unsigned>(list.size());
  if (processes_(device_, &n, list.data()) != 0) return 0;
  std::uint64_t sum = 0;
  for (unsigned i = 0; i < n && i < list.size(); ++i)
    if (std::find(pids.begin(), pids.end(), static_cast<pid_t>(list[i].pid)) != pids.end())
      sum += list[i].used;
  return sum;
}

std::uint64_t Outside::used() const {
  Memory m{};
  return ok() && memory_(device_, &m) == 0 ? m.used : 0;
}

}  // namespace bulkhead::bench
