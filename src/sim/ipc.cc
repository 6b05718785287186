// Memory shared by IPC handle. The exporter's piece of device memory becomes a file in sim/ when its
// handle is first asked for; the bytes stay charged once, to a shared object, while anyone holds it.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "base/fd.h"
#include "sim/api.h"
#include "sim/model.h"

namespace bulkhead::sim {
namespace {

struct Token {  // inside the 64 opaque bytes
  std::uint64_t magic, object, offset, bytes, segment_bytes;
  std::uint32_t pid, unit;
};
static_assert(sizeof(Token) <= sizeof(CUipcMemHandle));
constexpr std::uint64_t kToken = 0x43'5049'4d49'5342;  // "BSIMIPC"

Segment* segment_of(const Range& r) noexcept {
  if (r.kind == Kind::kSlab) return r.context->slabs->segment_of(r.base);
  return r.kind == Kind::kPlain ? r.segment : nullptr;
}

}  // namespace

CUresult api::cuIpcGetMemHandle(CUipcMemHandle* pHandle, CUdeviceptr dptr) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Range* r = find_range(dptr);
  Segment* s = r != nullptr ? segment_of(*r) : nullptr;
  if (pHandle == nullptr || s == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (!share_segment(*s)) return CUDA_ERROR_OUT_OF_MEMORY;
  const Token t{kToken, s->object, r->base - s->base, r->bytes, s->bytes,
                static_cast<std::uint32_t>(::getpid()), s->unit};
  std::memset(pHandle, 0, sizeof *pHandle);
  std::memcpy(pHandle, &t, sizeof t);
  return CUDA_SUCCESS;
}

CUresult api::cuIpcOpenMemHandle_v2(CUdeviceptr* pdptr, CUipcMemHandle handle,
                                    unsigned int Flags) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  Token t;
  std::memcpy(&t, &handle, sizeof t);
  if (pdptr == nullptr || Flags > CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS || t.magic != kToken) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (t.pid == static_cast<std::uint32_t>(::getpid())) return CUDA_ERROR_INVALID_CONTEXT;
  for (auto& [base, r] : driver().ranges) {
    if (r.kind != Kind::kIpc || r.object != t.object || r.base - r.map_base != t.offset) continue;
    ++r.opened;
    *pdptr = base;
    return CUDA_SUCCESS;
  }
  SharedObject object;
  if (!find_object(t.object, object) || object.bytes != t.segment_bytes ||
      t.offset > t.segment_bytes || t.bytes > t.segment_bytes - t.offset || !hold_object(t.object)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  char path[320];
  object_path(t.object, path);
  const UniqueFd fd{::open(path, O_RDWR | O_CLOEXEC)};
  const CUdeviceptr at = fd.ok() ? map_pages(t.segment_bytes, fd.get()) : 0;
  if (at == 0) {
    drop_object(t.object);
    return CUDA_ERROR_MAP_FAILED;
  }
  Range r;
  r.kind = Kind::kIpc;
  r.base = at + t.offset;
  r.bytes = t.bytes;
  r.context = call.context;
  r.ordinal = call.context->ordinal;
  r.object = t.object;
  r.map_base = at;
  r.map_bytes = t.segment_bytes;
  r.opened = 1;
  add_range(r);
  *pdptr = r.base;
  return CUDA_SUCCESS;
}
CUresult api::cuIpcOpenMemHandle(CUdeviceptr* pdptr, CUipcMemHandle handle,
                                 unsigned int Flags) noexcept {
  return cuIpcOpenMemHandle_v2(pdptr, handle, Flags);
}

CUresult api::cuIpcCloseMemHandle(CUdeviceptr dptr) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  const auto it = driver().ranges.find(dptr);
  if (it == driver().ranges.end() || it->second.kind != Kind::kIpc) return CUDA_ERROR_INVALID_VALUE;
  if (--it->second.opened == 0) release_range(dptr);
  return CUDA_SUCCESS;
}

}  // namespace bulkhead::sim
