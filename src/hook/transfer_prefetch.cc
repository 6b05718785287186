// Prefetches of managed memory. Where the pages are is not known: the side that is, gives the direction.
#include "hook/next.h"
#include "hook/transfer_batch.h"
#include "hook/transfer_move.h"

namespace bulkhead::hook {
namespace {

using Op = AuditOp;

AuditEvent prefetch(Op op, CUdeviceptr at, std::uint64_t bytes, std::uint8_t to) noexcept {
  AuditEvent e;
  e.op = op;
  e.direction = to == abi::kHostDevice ? Direction::kDeviceToHost : Direction::kHostToDevice;
  e.source_device = abi::kRemoteDevice;
  e.destination_device = to;
  e.source = e.destination = at;
  e.bytes = move_bytes(bytes);
  return e;
}
std::uint8_t old_location(CUdevice to) noexcept {
  return to < 0 ? abi::kHostDevice : device_number(to);  // CU_DEVICE_CPU is -1
}

// The location of range i is the last one whose index is not above i.
const CUmemLocation* location_of(const CUmemLocation* all, const size_t* first, size_t n,
                                 std::size_t i) noexcept {
  const CUmemLocation* found = nullptr;
  for (size_t k = 0; k < n && first[k] <= i; ++k) found = all + k;
  return found;
}

struct Ranges {
  CUdeviceptr* at;
  size_t* bytes;
  size_t count;
  CUmemLocation* locations;
  size_t* first;
  size_t location_count;
};
template <class Call>
CUresult prefetches(Op op, const Ranges& r, On on, Call call) noexcept {
  if (r.at == nullptr || r.bytes == nullptr || r.locations == nullptr || r.first == nullptr)
    return call();
  const auto event = [&](std::size_t i) {
    const CUmemLocation* const to = location_of(r.locations, r.first, r.location_count, i);
    return prefetch(op, r.at[i], r.bytes[i],
                    to != nullptr ? location_number(*to) : abi::kRemoteDevice);
  };
  return batch(r.count, on, nullptr, event, call);
}

}  // namespace

CUresult cuMemPrefetchAsync(CUdeviceptr devPtr, size_t count, CUdevice dstDevice,
                            CUstream hStream) noexcept {
  constexpr auto kMake = [](auto at, auto n, auto to, auto s) {
    return Move{prefetch(Op::k_cuMemPrefetchAsync, at, n, old_location(to)), queued(s)};
  };
  return move(next.cuMemPrefetchAsync, kMake, devPtr, count, dstDevice, hStream);
}
CUresult cuMemPrefetchAsync_ptsz(CUdeviceptr devPtr, size_t count, CUdevice dstDevice,
                                 CUstream hStream) noexcept {
  constexpr auto kMake = [](auto at, auto n, auto to, auto s) {
    return Move{prefetch(Op::k_cuMemPrefetchAsync, at, n, old_location(to)), queued_own(s)};
  };
  return move(next.cuMemPrefetchAsync_ptsz, kMake, devPtr, count, dstDevice, hStream);
}
CUresult cuMemPrefetchAsync_v2(CUdeviceptr devPtr, size_t count, CUmemLocation location,
                               unsigned int flags, CUstream hStream) noexcept {
  constexpr auto kMake = [](auto at, auto n, auto where, auto, auto s) {
    return Move{prefetch(Op::k_cuMemPrefetchAsync, at, n, location_number(where)), queued(s)};
  };
  return move(next.cuMemPrefetchAsync_v2, kMake, devPtr, count, location, flags, hStream);
}
CUresult cuMemPrefetchAsync_v2_ptsz(CUdeviceptr devPtr, size_t count, CUmemLocation location,
                                    unsigned int flags, CUstream hStream) noexcept {
  constexpr auto kMake = [](auto at, auto n, auto where, auto, auto s) {
    return Move{prefetch(Op::k_cuMemPrefetchAsync, at, n, location_number(where)), queued_own(s)};
  };
  return move(next.cuMemPrefetchAsync_v2_ptsz, kMake, devPtr, count, location, flags, hStream);
}
CUresult cuMemPrefetchBatchAsync(CUdeviceptr* dptrs, size_t* sizes, size_t count,
                                 CUmemLocation* prefetchLocs, size_t* prefetchLocIdxs,
                                 size_t numPrefetchLocs, unsigned long long flags,
                                 CUstream hStream) noexcept {
  const Ranges r{dptrs, sizes, count, prefetchLocs, prefetchLocIdxs, numPrefetchLocs};
  return prefetches(Op::k_cuMemPrefetchBatchAsync, r, queued(hStream), [=] {
    return next.cuMemPrefetchBatchAsync(dptrs, sizes, count, prefetchLocs, prefetchLocIdxs,
                                        numPrefetchLocs, flags, hStream);
  });
}
CUresult cuMemPrefetchBatchAsync_ptsz(CUdeviceptr* dptrs, size_t* sizes, size_t count,
                                      CUmemLocation* prefetchLocs, size_t* prefetchLocIdxs,
                                      size_t numPrefetchLocs, unsigned long long flags,
                                      CUstream hStream) noexcept {
  const Ranges r{dptrs, sizes, count, prefetchLocs, prefetchLocIdxs, numPrefetchLocs};
  return prefetches(Op::k_cuMemPrefetchBatchAsync, r, queued_own(hStream), [=] {
    return next.cuMemPrefetchBatchAsync_ptsz(dptrs, sizes, count, prefetchLocs, prefetchLocIdxs,
                                             numPrefetchLocs, flags, hStream);
  });
}
CUresult cuMemDiscardAndPrefetchBatchAsync(CUdeviceptr* dptrs, size_t* sizes, size_t count,
                                           CUmemLocation* prefetchLocs, size_t* prefetchLocIdxs,
                                           size_t numPrefetchLocs, unsigned long long flags,
                                           CUstream hStream) noexcept {
  const Ranges r{dptrs, sizes, count, prefetchLocs, prefetchLocIdxs, numPrefetchLocs};
  return prefetches(Op::k_cuMemDiscardAndPrefetchBatchAsync, r, queued(hStream), [=] {
    return next.cuMemDiscardAndPrefetchBatchAsync(dptrs, sizes, count, prefetchLocs,
                                                  prefetchLocIdxs, numPrefetchLocs, flags, hStream);
  });
}
CUresult cuMemDiscardAndPrefetchBatchAsync_ptsz(CUdeviceptr* dptrs, size_t* sizes, size_t count,
                                                CUmemLocation* prefetchLocs,
                                                size_t* prefetchLocIdxs, size_t numPrefetchLocs,
                                                unsigned long long flags,
                                                CUstream hStream) noexcept {
  const Ranges r{dptrs, sizes, count, prefetchLocs, prefetchLocIdxs, numPrefetchLocs};
  return prefetches(Op::k_cuMemDiscardAndPrefetchBatchAsync, r, queued_own(hStream), [=] {
    return next.cuMemDiscardAndPrefetchBatchAsync_ptsz(
        dptrs, sizes, count, prefetchLocs, prefetchLocIdxs, numPrefetchLocs, flags, hStream);
  });
}

}  // namespace bulkhead::hook
