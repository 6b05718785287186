// Kernel launches. A kernel of ours runs its host twin; another does nothing and costs a default.
#include <algorithm>
#include <cstring>

#include "sim/api.h"
#include "sim/module.h"
#include "sim/timed_work.h"

namespace bulkhead::sim {
namespace {

// Copies the parameters in the order and sizes the kernel's table gives; `extra` is already packed so.
CUresult pack(const kernels::Kernel& k, void** params, void** extra,
              std::vector<unsigned char>& out) noexcept {
  std::size_t bytes = 0;
  for (unsigned i = 0; i < k.args; ++i) bytes = round_up(bytes, k.arg_bytes[i]) + k.arg_bytes[i];
  out.assign(bytes, 0);
  if (params != nullptr) {
    std::size_t at = 0;
    for (unsigned i = 0; i < k.args; ++i) {
      at = round_up(at, k.arg_bytes[i]);
      if (params[i] == nullptr) return CUDA_ERROR_INVALID_VALUE;
      std::memcpy(out.data() + at, params[i], k.arg_bytes[i]);
      at += k.arg_bytes[i];
    }
    return CUDA_SUCCESS;
  }
  if (k.args == 0) return CUDA_SUCCESS;
  if (extra == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const void* buffer = nullptr;
  std::size_t size = 0;
  for (unsigned i = 0; extra[i] != nullptr && i < 8; i += 2) {  // 1: buffer, 2: its size, 0: end
    const auto tag = reinterpret_cast<std::uintptr_t>(extra[i]);
    if (tag == 1) buffer = extra[i + 1];
    if (tag == 2) size = *static_cast<std::size_t*>(extra[i + 1]);
  }
  if (buffer == nullptr || size < bytes) return CUDA_ERROR_INVALID_VALUE;
  std::memcpy(out.data(), buffer, bytes);
  return CUDA_SUCCESS;
}

// The SMs that its blocks fill when they lie as close as threads, shared memory and the block limit let them.
unsigned sms_of(const Work& w) noexcept {
  const Profile& p = machine.profile;
  const std::uint64_t threads = std::uint64_t{w.block[0]} * w.block[1] * w.block[2];
  std::uint64_t fit = std::min(p.blocks_per_sm, p.threads_per_sm / threads);
  if (w.shared_bytes != 0) fit = std::min(fit, p.shared_bytes_per_sm / w.shared_bytes);
  fit = std::max<std::uint64_t>(fit, 1);
  const std::uint64_t blocks = std::uint64_t{w.grid[0]} * w.grid[1];  // fits: at most 2^62
  const std::uint64_t all = p.unit_sms();
  if (blocks / fit >= all || w.grid[2] / fit >= all) return static_cast<unsigned>(all);
  return static_cast<unsigned>(std::min((blocks * w.grid[2] + fit - 1) / fit, all));
}

bool reaches(std::uint64_t at, std::uint64_t bytes) { return device_span(at, bytes); }

// Local memory is kept for every thread the device can hold, and never given back to another context.
bool ensure_local(Context& c, std::uint64_t thread_bytes) noexcept {
  const Profile& p = machine.profile;
  if (thread_bytes <= p.default_stack_bytes + c.stack_bytes) return true;
  const std::uint64_t more = thread_bytes - p.default_stack_bytes - c.stack_bytes;
  const std::uint64_t bytes = more * p.threads_per_sm * p.unit_sms();
  if (!take_bytes(c.unit, bytes)) return false;
  c.stack_bytes += more;
  c.local_bytes += bytes;
  return true;
}

}  // namespace

CUresult make_launch(Work& w, CUfunction f, const unsigned (&grid)[3], const unsigned (&block)[3],
                     unsigned shared_bytes, void** params, void** extra) noexcept {
  Function* function = to_function(f);
  if (function == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  const std::uint64_t threads = std::uint64_t{block[0]} * block[1] * block[2];
  for (unsigned i = 0; i < 3; ++i) {
    if (grid[i] == 0 || block[i] == 0) return CUDA_ERROR_INVALID_VALUE;
    w.grid[i] = grid[i];
    w.block[i] = block[i];
  }
  if (threads > 1024 || block[2] > 64 || shared_bytes > 232448) return CUDA_ERROR_INVALID_VALUE;
  w.type = CU_GRAPH_NODE_TYPE_KERNEL;
  w.function = function;
  w.shared_bytes = shared_bytes;
  if (function->kernel == nullptr) return CUDA_SUCCESS;
  return pack(*function->kernel, params, extra, w.args);
}

// The launch itself succeeds even when the kernel faults: the error comes with the next call, and stays.
CUresult perform_kernel(Stream& s, const Work& w) noexcept {
  Function& f = *w.function;
  if (!ensure_loaded(f)) return CUDA_ERROR_OUT_OF_MEMORY;
  if (!ensure_local(*s.context, f.local_bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  if (f.kernel == nullptr) {
    submit(s, f.cost_ns, EntryKind::kKernel, sms_of(w));
    return CUDA_SUCCESS;
  }
  const void* args[kernels::kMaxArgs] = {};
  std::size_t at = 0;
  for (unsigned i = 0; i < f.kernel->args; ++i) {
    at = round_up(at, f.kernel->arg_bytes[i]);
    args[i] = w.args.data() + at;
    at += f.kernel->arg_bytes[i];
  }
  const kernels::Launch launch{
      {w.grid[0], w.grid[1], w.grid[2]},
      {w.block[0], w.block[1], w.block[2]},
      args,
      driver().moves_bytes,
      reaches,
      s.context->green_of != nullptr ? s.context->green_sms : driver().mps.sms};
  Context& c = *s.context;
  if (driver().timed && f.kernel->until != nullptr && f.kernel->twin(launch)) {
    timed_persist(s, sms_of(w), f.kernel->until(launch));
    return CUDA_SUCCESS;
  }
  submit(s, f.kernel->cost_ns(launch), EntryKind::kKernel, sms_of(w));
  if (!f.kernel->twin(launch)) {
    c.sticky = CUDA_ERROR_ILLEGAL_ADDRESS;
    if (driver().timed) timed_fault(c);
  }
  return CUDA_SUCCESS;
}

bool set_stack_limit(Context& c, std::uint64_t bytes) noexcept { return ensure_local(c, bytes); }

namespace {

CUresult launch(CUfunction f, const unsigned (&grid)[3], const unsigned (&block)[3],
                unsigned shared, CUstream stream, void** params, void** extra) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  Stream* s = to_stream(stream, call.context);
  if (s == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  Work w;
  const CUresult r = make_launch(w, f, grid, block, shared, params, extra);
  return r == CUDA_SUCCESS ? enqueue(*s, w) : r;
}

}  // namespace

CUresult api::cuLaunchKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                             unsigned int gridDimZ, unsigned int blockDimX, unsigned int blockDimY,
                             unsigned int blockDimZ, unsigned int sharedMemBytes, CUstream hStream,
                             void** kernelParams, void** extra) noexcept {
  return launch(f, {gridDimX, gridDimY, gridDimZ}, {blockDimX, blockDimY, blockDimZ},
                sharedMemBytes, hStream, kernelParams, extra);
}

CUresult api::cuLaunchKernelEx(const CUlaunchConfig* c, CUfunction f, void** kernelParams,
                               void** extra) noexcept {
  if (c == nullptr) return CUDA_ERROR_INVALID_VALUE;
  return launch(f, {c->gridDimX, c->gridDimY, c->gridDimZ},
                {c->blockDimX, c->blockDimY, c->blockDimZ}, c->sharedMemBytes, c->hStream,
                kernelParams, extra);
}

CUresult api::cuLaunchCooperativeKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                                        unsigned int gridDimZ, unsigned int blockDimX,
                                        unsigned int blockDimY, unsigned int blockDimZ,
                                        unsigned int sharedMemBytes, CUstream hStream,
                                        void** kernelParams) noexcept {
  const std::uint64_t blocks = std::uint64_t{gridDimX} * gridDimY * gridDimZ;
  const std::uint64_t threads = std::uint64_t{blockDimX} * blockDimY * blockDimZ;
  const std::uint64_t room = driver().mps.sms * machine.profile.threads_per_sm;
  if (threads != 0 && blocks * threads > room) return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
  return launch(f, {gridDimX, gridDimY, gridDimZ}, {blockDimX, blockDimY, blockDimZ},
                sharedMemBytes, hStream, kernelParams, nullptr);
}

CUresult api::cuOccupancyMaxActiveBlocksPerMultiprocessor(int* numBlocks, CUfunction func,
                                                          int blockSize,
                                                          size_t /*dynamicSMemSize*/) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (to_function(func) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (numBlocks == nullptr || blockSize <= 0) return CUDA_ERROR_INVALID_VALUE;
  const int fit = static_cast<int>(machine.profile.threads_per_sm) / blockSize;
  *numBlocks = fit > 32 ? 32 : fit;
  return CUDA_SUCCESS;
}
CUresult api::cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    int* numBlocks, CUfunction func, int blockSize, size_t shared,
    unsigned int /*flags*/) noexcept {
  return cuOccupancyMaxActiveBlocksPerMultiprocessor(numBlocks, func, blockSize, shared);
}

}  // namespace bulkhead::sim
