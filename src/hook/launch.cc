// Everything that starts work on a device: each waits for the tenant's share, is charged and measured.
#include "hook/compute.h"
#include "hook/compute_books.h"
#include "hook/compute_quick_way.h"
#include "hook/next.h"

namespace bulkhead::hook {
namespace {

std::uint64_t handle_bits(CUfunction f) noexcept { return reinterpret_cast<std::uintptr_t>(f); }

What kernel(CUfunction f, const shares::Shape& s) noexcept {
  const std::uint64_t blocks = std::uint64_t{s.grid[0]} * s.grid[1] * s.grid[2];
  const std::uint64_t threads = std::uint64_t{s.block[0]} * s.block[1] * s.block[2];
  // By the first device: only a guess, for the first launch of a key.
  return {shares::kernel_key(handle_bits(f), s),
          shares::prior_ns(blocks * threads, compute.device[0].threads), f, false};
}

template <class Call>
[[gnu::noinline]] CUresult limited_launch(const What& what, CUstream stream, Twin twin,
                                          Call call) noexcept {
  Ticket t;
  compute_begin(t, what, stream, twin);
  return compute_end(t, call());
}
template <class Call>
[[gnu::cold, gnu::noinline]] CUresult long_launch(const QuickKey& key, const What& what,
                                                  CUstream stream, Twin twin, Call call) noexcept {
  Ticket t;
  compute_begin(t, what, stream, twin);
  quick_learn(key, t);
  return compute_end(t, call());
}
// A ticket that is made when it is needed.
union Long {
  Long() noexcept {}
  Ticket ticket;
};
[[gnu::cold, gnu::noinline]] void long_begin(Long& way, CUfunction f, const shares::Shape& s,
                                             CUstream stream, Twin twin) noexcept {
  way.ticket = {};
  compute_begin(way.ticket, kernel(f, s), stream, twin);
  quick_learn(quick_kernel(f, s, stream, twin), way.ticket);
}
template <class Call>
[[gnu::always_inline]] inline CUresult shaped_launch(CUfunction f, const shares::Shape& s,
                                                     CUstream stream, Twin twin,
                                                     Call call) noexcept {
  const QuickKey key = quick_kernel(f, s, stream, twin);
  if (StreamBook* const book = quick_begin(key)) [[likely]]
    return quick_end(*book, call());
  return long_launch(key, kernel(f, s), stream, twin, call);
}

// What of an extended launch decides its cost; true: it may start before its predecessor has ended.
bool extended(const CUlaunchConfig& c, shares::Shape& s) noexcept {
  s = {{c.gridDimX, c.gridDimY, c.gridDimZ},
       {c.blockDimX, c.blockDimY, c.blockDimZ},
       {1, 1, 1},
       c.sharedMemBytes};
  bool dependent = false;
  for (unsigned i = 0; c.attrs != nullptr && i < c.numAttrs; ++i) {
    const CUlaunchAttribute& a = c.attrs[i];
    if (a.id == CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION) {
      s.cluster[0] = a.value.clusterDim.x;
      s.cluster[1] = a.value.clusterDim.y;
      s.cluster[2] = a.value.clusterDim.z;
    } else if (a.id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION) {
      dependent = dependent || a.value.programmaticStreamSerializationAllowed != 0;
    } else if (a.id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT) {
      dependent = true;
    }
  }
  return dependent;
}
template <class Call>
[[gnu::noinline]] CUresult cooperative_launch(CUfunction f, const shares::Shape& s, CUstream stream,
                                              Twin twin, Call call) noexcept {
  return shaped_launch(f, s, stream, twin, call);
}
template <class Call>
[[gnu::noinline]] CUresult extended_launch(const CUlaunchConfig& c, CUfunction f, Twin twin,
                                           Call call) noexcept {
  shares::Shape s;
  if (!extended(c, s)) return shaped_launch(f, s, c.hStream, twin, call);
  What w = kernel(f, s);
  w.dependent = true;
  return limited_launch(w, c.hStream, twin, call);
}

// A launch of CUDA 2: the block's shape was set on the function and is not known here.
What old_form(CUfunction f, int width, int height) noexcept {
  shares::Shape s;
  s.grid[0] = static_cast<std::uint32_t>(width);
  s.grid[1] = static_cast<std::uint32_t>(height);
  return kernel(f, s);
}

// All at once, each on a stream of its own: each is charged to its device.
constexpr unsigned kMostParts = 16;
CUresult launch_parts(CUDA_LAUNCH_PARAMS* list, unsigned count, unsigned flags) noexcept {
  Ticket tickets[kMostParts];
  const unsigned n = list == nullptr ? 0 : count < kMostParts ? count : kMostParts;
  for (unsigned i = 0; i < n; ++i) {
    const CUDA_LAUNCH_PARAMS& p = list[i];
    const shares::Shape s{{p.gridDimX, p.gridDimY, p.gridDimZ},
                          {p.blockDimX, p.blockDimY, p.blockDimZ},
                          {1, 1, 1},
                          p.sharedMemBytes};
    compute_begin(tickets[i], kernel(p.function, s), p.hStream, Twin::kPlain);
  }
  const CUresult r = next.cuLaunchCooperativeKernelMultiDevice(list, count, flags);
  for (unsigned i = 0; i < n; ++i) static_cast<void>(compute_end(tickets[i], r));
  return r;
}

}  // namespace

#define BH_SHAPE                                                                                 \
  shares::Shape {                                                                                \
    {gridDimX, gridDimY, gridDimZ}, {blockDimX, blockDimY, blockDimZ}, {1, 1, 1}, sharedMemBytes \
  }

// The limited forms have their own functions with the same arguments, which then stay where they are. The long way returns to them, for a
// call at their end or a closure would have all the arguments put into memory first.
#define BH_LIMITED(name, twin)                                                                     \
  namespace {                                                                                      \
  [[gnu::noinline]] CUresult limited_##name(CUfunction f, unsigned int gridDimX,                   \
                                            unsigned int gridDimY, unsigned int gridDimZ,          \
                                            unsigned int blockDimX, unsigned int blockDimY,        \
                                            unsigned int blockDimZ, unsigned int sharedMemBytes,   \
                                            CUstream hStream, void** kernelParams,                 \
                                            void** extra) noexcept {                               \
    Long way;                                                                                      \
    StreamBook* const book = quick_begin(quick_kernel(f, BH_SHAPE, hStream, twin));                \
    if (book == nullptr) [[unlikely]]                                                              \
      long_begin(way, f, BH_SHAPE, hStream, twin);                                                 \
    const CUresult r = next.name(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, \
                                 sharedMemBytes, hStream, kernelParams, extra);                    \
    if (book == nullptr) [[unlikely]]                                                              \
      return compute_end(way.ticket, r);                                                           \
    return quick_end(*book, r);                                                                    \
  }                                                                                                \
  }
BH_LIMITED(cuLaunchKernel, Twin::kPlain)
BH_LIMITED(cuLaunchKernel_ptsz, Twin::kPerThread)
#undef BH_LIMITED

CUresult cuLaunchKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                        unsigned int gridDimZ, unsigned int blockDimX, unsigned int blockDimY,
                        unsigned int blockDimZ, unsigned int sharedMemBytes, CUstream hStream,
                        void** kernelParams, void** extra) noexcept {
  if (!compute_limited()) [[likely]] {
    return next.cuLaunchKernel(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ,
                               sharedMemBytes, hStream, kernelParams, extra);
  }
  return limited_cuLaunchKernel(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ,
                                sharedMemBytes, hStream, kernelParams, extra);
}
CUresult cuLaunchKernel_ptsz(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                             unsigned int gridDimZ, unsigned int blockDimX, unsigned int blockDimY,
                             unsigned int blockDimZ, unsigned int sharedMemBytes, CUstream hStream,
                             void** kernelParams, void** extra) noexcept {
  if (!compute_limited()) [[likely]] {
    return next.cuLaunchKernel_ptsz(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY,
                                    blockDimZ, sharedMemBytes, hStream, kernelParams, extra);
  }
  return limited_cuLaunchKernel_ptsz(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY,
                                     blockDimZ, sharedMemBytes, hStream, kernelParams, extra);
}

// A null configuration is the driver's to refuse.
CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction f, void** kernelParams,
                          void** extra) noexcept {
  if (!compute_limited() || config == nullptr) [[likely]]
    return next.cuLaunchKernelEx(config, f, kernelParams, extra);
  return extended_launch(*config, f, Twin::kPlain,
                         [&] { return next.cuLaunchKernelEx(config, f, kernelParams, extra); });
}
CUresult cuLaunchKernelEx_ptsz(const CUlaunchConfig* config, CUfunction f, void** kernelParams,
                               void** extra) noexcept {
  if (!compute_limited() || config == nullptr) [[likely]]
    return next.cuLaunchKernelEx_ptsz(config, f, kernelParams, extra);
  return extended_launch(*config, f, Twin::kPerThread, [&] {
    return next.cuLaunchKernelEx_ptsz(config, f, kernelParams, extra);
  });
}

CUresult cuLaunchCooperativeKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                                   unsigned int gridDimZ, unsigned int blockDimX,
                                   unsigned int blockDimY, unsigned int blockDimZ,
                                   unsigned int sharedMemBytes, CUstream hStream,
                                   void** kernelParams) noexcept {
  if (!compute_limited()) [[likely]] {
    return next.cuLaunchCooperativeKernel(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY,
                                          blockDimZ, sharedMemBytes, hStream, kernelParams);
  }
  return cooperative_launch(f, BH_SHAPE, hStream, Twin::kPlain, [&] {
    return next.cuLaunchCooperativeKernel(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY,
                                          blockDimZ, sharedMemBytes, hStream, kernelParams);
  });
}
CUresult cuLaunchCooperativeKernel_ptsz(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
                                        unsigned int gridDimZ, unsigned int blockDimX,
                                        unsigned int blockDimY, unsigned int blockDimZ,
                                        unsigned int sharedMemBytes, CUstream hStream,
                                        void** kernelParams) noexcept {
  if (!compute_limited()) [[likely]] {
    return next.cuLaunchCooperativeKernel_ptsz(f, gridDimX, gridDimY, gridDimZ, blockDimX,
                                               blockDimY, blockDimZ, sharedMemBytes, hStream,
                                               kernelParams);
  }
  return cooperative_launch(f, BH_SHAPE, hStream, Twin::kPerThread, [&] {
    return next.cuLaunchCooperativeKernel_ptsz(f, gridDimX, gridDimY, gridDimZ, blockDimX,
                                               blockDimY, blockDimZ, sharedMemBytes, hStream,
                                               kernelParams);
  });
}
#undef BH_SHAPE

CUresult cuLaunchCooperativeKernelMultiDevice(CUDA_LAUNCH_PARAMS* launchParamsList,
                                              unsigned int numDevices,
                                              unsigned int flags) noexcept {
  if (!compute_limited()) [[likely]]
    return next.cuLaunchCooperativeKernelMultiDevice(launchParamsList, numDevices, flags);
  return launch_parts(launchParamsList, numDevices, flags);
}

CUresult cuLaunch(CUfunction f) noexcept {
  if (!compute_limited()) [[likely]]
    return next.cuLaunch(f);
  return limited_launch(old_form(f, 1, 1), nullptr, Twin::kPlain, [=] { return next.cuLaunch(f); });
}
CUresult cuLaunchGrid(CUfunction f, int grid_width, int grid_height) noexcept {
  if (!compute_limited()) [[likely]]
    return next.cuLaunchGrid(f, grid_width, grid_height);
  return limited_launch(old_form(f, grid_width, grid_height), nullptr, Twin::kPlain,
                        [=] { return next.cuLaunchGrid(f, grid_width, grid_height); });
}
CUresult cuLaunchGridAsync(CUfunction f, int grid_width, int grid_height,
                           CUstream hStream) noexcept {
  if (!compute_limited()) [[likely]]
    return next.cuLaunchGridAsync(f, grid_width, grid_height, hStream);
  return limited_launch(old_form(f, grid_width, grid_height), hStream, Twin::kPlain, [=] {
    return next.cuLaunchGridAsync(f, grid_width, grid_height, hStream);
  });
}

}  // namespace bulkhead::hook
