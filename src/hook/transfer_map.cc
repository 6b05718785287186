// Calls that open a way for bytes to move later, without a call: those that take nothing of the quota. The others are recorded where
// they are booked (share.cc, vmm.cc, memory_managed.cc).
#include "hook/transfer_map.h"

#include "hook/next.h"
#include "hook/transfer_batch.h"

namespace bulkhead::hook {
namespace {

using Op = AuditOp;

template <class Call>
CUresult host_memory(Op op, const void* p, std::uint64_t bytes, Call call) noexcept {
  const auto event = [=] {
    AuditEvent e = map_of(op, reinterpret_cast<std::uintptr_t>(p), bytes);
    e.destination = e.source;
    e.source_device = abi::kHostDevice;
    e.destination_device = current_device();
    return e;
  };
  return map_event(event, call);
}

// Several ways in one call. `event(i)` of op kNone opens none.
template <class Event, class Call>
CUresult maps(std::size_t count, const Event& event, const Call& call) noexcept {
  const auto as_map = [&](std::size_t i) {
    AuditEvent e = event(i);
    e.kind = abi::EntryKind::kMap;
    e.direction = Direction::kNone;
    return e;
  };
  if (!audit_on()) [[likely]]
    return call();
  TicketList tickets{count};
  CUresult r = batch_begin(count, On{}, nullptr, as_map, tickets);
  if (r != CUDA_SUCCESS) return r;
  r = call();
  if (r != CUDA_SUCCESS) tickets.failed(r);
  return r;
}

template <class Call>
CUresult access(Op op, std::uint64_t at, std::uint64_t bytes, const CUmemAccessDesc* to,
                std::size_t count, Call call) noexcept {
  if (to == nullptr) return call();
  const auto event = [=](std::size_t i) {
    if (to[i].flags == CU_MEM_ACCESS_FLAGS_PROT_NONE) return AuditEvent{};
    AuditEvent e = map_of(op, at, bytes);
    e.destination = at;
    e.destination_device = location_number(to[i].location);
    return e;
  };
  return maps(count, event, call);
}

template <class Call>
CUresult resources(CUgraphicsResource* list, unsigned count, Call call) noexcept {
  if (list == nullptr) return call();
  const auto event = [=](std::size_t i) {
    return map_of(Op::k_cuGraphicsMapResources, reinterpret_cast<std::uintptr_t>(list[i]), 0);
  };
  return maps(count, event, call);
}

template <class Call>
CUresult process_image(Op op, int pid, Call call) noexcept {
  return map_event([=] { return map_of(op, static_cast<std::uint32_t>(pid), 0); }, call);
}

}  // namespace

CUresult cuMemAllocHost(void** pp, unsigned int bytesize) noexcept {
  return host_memory(Op::k_cuMemAllocHost, nullptr, bytesize,
                     [=] { return next.cuMemAllocHost(pp, bytesize); });
}
CUresult cuMemAllocHost_v2(void** pp, size_t bytesize) noexcept {
  return host_memory(Op::k_cuMemAllocHost, nullptr, bytesize,
                     [=] { return next.cuMemAllocHost_v2(pp, bytesize); });
}
CUresult cuMemHostAlloc(void** pp, size_t bytesize, unsigned int Flags) noexcept {
  return host_memory(Op::k_cuMemHostAlloc, nullptr, bytesize,
                     [=] { return next.cuMemHostAlloc(pp, bytesize, Flags); });
}
CUresult cuMemHostRegister(void* p, size_t bytesize, unsigned int Flags) noexcept {
  return host_memory(Op::k_cuMemHostRegister, p, bytesize,
                     [=] { return next.cuMemHostRegister(p, bytesize, Flags); });
}
CUresult cuMemHostRegister_v2(void* p, size_t bytesize, unsigned int Flags) noexcept {
  return host_memory(Op::k_cuMemHostRegister, p, bytesize,
                     [=] { return next.cuMemHostRegister_v2(p, bytesize, Flags); });
}

CUresult cuCtxEnablePeerAccess(CUcontext peerContext, unsigned int Flags) noexcept {
  const auto event = [=] {
    CUcontext current = nullptr;
    static_cast<void>(next.cuCtxGetCurrent(&current));
    AuditEvent e =
        map_of(Op::k_cuCtxEnablePeerAccess, reinterpret_cast<std::uintptr_t>(current), 0);
    e.destination = reinterpret_cast<std::uintptr_t>(peerContext);
    e.source_device = current_device();
    e.destination_device = in_context(0, peerContext).device;
    return e;
  };
  return map_event(event, [=] { return next.cuCtxEnablePeerAccess(peerContext, Flags); });
}

CUresult cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc* desc,
                        size_t count) noexcept {
  return access(Op::k_cuMemSetAccess, ptr, size, desc, count,
                [=] { return next.cuMemSetAccess(ptr, size, desc, count); });
}
CUresult cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc* map, size_t count) noexcept {
  return access(Op::k_cuMemPoolSetAccess, reinterpret_cast<std::uintptr_t>(pool), 0, map, count,
                [=] { return next.cuMemPoolSetAccess(pool, map, count); });
}

CUresult cuGraphicsMapResources(unsigned int count, CUgraphicsResource* list,
                                CUstream hStream) noexcept {
  return resources(list, count, [=] { return next.cuGraphicsMapResources(count, list, hStream); });
}
CUresult cuGraphicsMapResources_ptsz(unsigned int count, CUgraphicsResource* list,
                                     CUstream hStream) noexcept {
  return resources(list, count,
                   [=] { return next.cuGraphicsMapResources_ptsz(count, list, hStream); });
}

CUresult cuMemGetHandleForAddressRange(void* handle, CUdeviceptr dptr, size_t size,
                                       CUmemRangeHandleType handleType,
                                       unsigned long long flags) noexcept {
  const auto event = [=] {
    AuditEvent e = map_of(Op::k_cuMemGetHandleForAddressRange, dptr, size);
    e.source_device = on_device(dptr).device;
    return e;
  };
  return map_event(event, [=] {
    return next.cuMemGetHandleForAddressRange(handle, dptr, size, handleType, flags);
  });
}
CUresult cuMulticastBindAddr(CUmemGenericAllocationHandle mcHandle, size_t mcOffset,
                             CUdeviceptr memptr, size_t size, unsigned long long flags) noexcept {
  const auto event = [=] {
    AuditEvent e = map_of(Op::k_cuMulticastBindAddr, memptr, size);
    e.destination = mcHandle;
    e.source_device = on_device(memptr).device;
    return e;
  };
  return map_event(
      event, [=] { return next.cuMulticastBindAddr(mcHandle, mcOffset, memptr, size, flags); });
}

namespace {

// A piece of a sparse array gets memory, or (unmap) loses it, which opens nothing. Bytes: not told for a level.
template <class Call>
CUresult map_arrays(CUarrayMapInfo* list, unsigned count, Call call) noexcept {
  if (list == nullptr) return call();
  const auto event = [=](std::size_t i) {
    const CUarrayMapInfo& m = list[i];
    if (m.memOperationType != CU_MEM_OPERATION_TYPE_MAP) return AuditEvent{};
    const bool tail = m.subresourceType == CU_ARRAY_SPARSE_SUBRESOURCE_TYPE_MIPTAIL;
    AuditEvent e = map_of(Op::k_cuMemMapArrayAsync, m.memHandle.memHandle,
                          tail ? m.subresource.miptail.size : 0);
    e.destination = reinterpret_cast<std::uintptr_t>(m.resource.array);
    return e;
  };
  return maps(count, event, call);
}

}  // namespace

CUresult cuMemMapArrayAsync(CUarrayMapInfo* mapInfoList, unsigned int count,
                            CUstream hStream) noexcept {
  return map_arrays(mapInfoList, count,
                    [=] { return next.cuMemMapArrayAsync(mapInfoList, count, hStream); });
}
CUresult cuMemMapArrayAsync_ptsz(CUarrayMapInfo* mapInfoList, unsigned int count,
                                 CUstream hStream) noexcept {
  return map_arrays(mapInfoList, count,
                    [=] { return next.cuMemMapArrayAsync_ptsz(mapInfoList, count, hStream); });
}

// Another process's memory, all of it, to host memory and back.
CUresult cuCheckpointProcessCheckpoint(int pid, CUcheckpointCheckpointArgs* args) noexcept {
  return process_image(Op::k_cuCheckpointProcessCheckpoint, pid,
                       [=] { return next.cuCheckpointProcessCheckpoint(pid, args); });
}
CUresult cuCheckpointProcessRestore(int pid, CUcheckpointRestoreArgs* args) noexcept {
  return process_image(Op::k_cuCheckpointProcessRestore, pid,
                       [=] { return next.cuCheckpointProcessRestore(pid, args); });
}

}  // namespace bulkhead::hook
