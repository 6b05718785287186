#include "sim/copy.h"

#include <sys/mman.h>

#include <cstring>

#include "sim/array.h"

namespace bulkhead::sim {
namespace {

// One side of a copy, resolved to host addresses.
struct Side {
  char* at = nullptr;  // of the first byte
  std::size_t pitch = 0, slice = 0;
  bool device = false;
};

CUresult resolve(CUmemorytype type, CUdeviceptr device, const void* host, CUarray array,
                 std::size_t x, std::size_t y, std::size_t z, std::size_t pitch, std::size_t height,
                 const CUDA_MEMCPY3D& c, Side& out) noexcept {
  if (type == CU_MEMORYTYPE_ARRAY) {
    const Array* a = to_array(array);
    if (a == nullptr) return CUDA_ERROR_INVALID_HANDLE;
    const bool inside = x + c.WidthInBytes <= row_bytes(*a) && y + c.Height <= rows_of(*a) &&
                        z + c.Depth <= slices_of(*a);
    if (a->at == 0 || !inside) return CUDA_ERROR_INVALID_VALUE;
    out.pitch = row_bytes(*a);
    out.slice = out.pitch * rows_of(*a);
    out.at = reinterpret_cast<char*>(a->at) + z * out.slice + y * out.pitch + x;
    out.device = true;
    return CUDA_SUCCESS;
  }
  out.pitch = pitch != 0 ? pitch : c.WidthInBytes;
  out.slice = out.pitch * (height != 0 ? height : c.Height);
  if (out.pitch < c.WidthInBytes) return CUDA_ERROR_INVALID_VALUE;
  const CUdeviceptr base =
      type == CU_MEMORYTYPE_HOST ? reinterpret_cast<CUdeviceptr>(host) : device;
  const CUdeviceptr first = base + z * out.slice + y * out.pitch + x;
  const std::size_t bytes = (c.Depth - 1) * out.slice + (c.Height - 1) * out.pitch + c.WidthInBytes;
  if (base == 0) return CUDA_ERROR_INVALID_VALUE;
  const bool known = find_range(first) != nullptr;
  if ((type == CU_MEMORYTYPE_DEVICE || (type == CU_MEMORYTYPE_UNIFIED && known)) &&
      !device_span(first, bytes)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (known) {
    const Kind k = find_range(first)->kind;
    out.device = k != Kind::kHost && k != Kind::kRegistered;
  }
  out.at = reinterpret_cast<char*>(first);
  return CUDA_SUCCESS;
}

// Zeros of private pages need no pages: a demonstration may clear a 100 GB device on a small machine.
void clear(char* at, std::size_t bytes, bool may_drop_pages) noexcept {
  constexpr std::size_t kPage = 4096;
  const auto first = reinterpret_cast<std::uintptr_t>(at);
  const std::uintptr_t begin = round_up(first, kPage), end = (first + bytes) / kPage * kPage;
  if (!may_drop_pages || end <= begin || end - begin < (1u << 20)) {
    std::memset(at, 0, bytes);
    return;
  }
  std::memset(at, 0, begin - first);
  ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  std::memset(reinterpret_cast<void*>(end), 0, first + bytes - end);
}

bool private_pages(CUdeviceptr at) noexcept {
  const Range* r = find_range(at);
  return r != nullptr && (r->kind == Kind::kPlain || r->kind == Kind::kManaged) &&
         r->segment->object == 0;
}

void fill_row(char* at, const CUDA_MEMSET_NODE_PARAMS_v2& m) noexcept {
  if (m.elementSize == 1) {
    std::memset(at, static_cast<int>(m.value & 0xff), m.width);
    return;
  }
  for (std::size_t i = 0; i < m.width; ++i) {
    if (m.elementSize == 2) {
      reinterpret_cast<std::uint16_t*>(at)[i] = static_cast<std::uint16_t>(m.value);
    } else {
      reinterpret_cast<std::uint32_t*>(at)[i] = m.value;
    }
  }
}

std::uint64_t cost_of(std::uint64_t bytes, std::uint64_t bytes_per_us) noexcept {
  return 1000 + bytes * 1000 / (bytes_per_us != 0 ? bytes_per_us : 1);
}

CUresult submit_to(CUstream stream, bool sync, Work& w) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (sync) {
    if (const CUresult r = refused_by_capture(); r != CUDA_SUCCESS) return r;
  }
  Stream* s = to_stream(stream, call.context);
  if (s == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  const CUresult r = enqueue(*s, w);
  if (r == CUDA_SUCCESS && sync) wait_for(*s);
  return r;
}

}  // namespace

CUDA_MEMCPY3D linear_copy(CUmemorytype to, CUdeviceptr dst, CUmemorytype from, CUdeviceptr src,
                          std::size_t bytes) noexcept {
  CUDA_MEMCPY3D c{};
  c.srcMemoryType = from;
  c.srcDevice = src;
  c.srcHost = reinterpret_cast<const void*>(src);
  c.dstMemoryType = to;
  c.dstDevice = dst;
  c.dstHost = reinterpret_cast<void*>(dst);
  c.WidthInBytes = bytes;
  c.Height = c.Depth = 1;
  return c;
}

CUresult submit_copy(const CUDA_MEMCPY3D& c, CUstream stream, bool sync) noexcept {
  Work w;
  w.type = CU_GRAPH_NODE_TYPE_MEMCPY;
  w.copy = c;
  return submit_to(stream, sync, w);
}

CUresult submit_memset(const CUDA_MEMSET_NODE_PARAMS_v2& m, CUstream stream, bool sync) noexcept {
  Work w;
  w.type = CU_GRAPH_NODE_TYPE_MEMSET;
  w.set = m;
  return submit_to(stream, sync, w);
}

CUresult perform_copy(const CUDA_MEMCPY3D& c, std::uint64_t& cost_ns, EntryKind& kind) noexcept {
  if (c.WidthInBytes == 0 || c.Height == 0 || c.Depth == 0) return CUDA_SUCCESS;
  Side to, from;
  CUresult r = resolve(c.srcMemoryType, c.srcDevice, c.srcHost, c.srcArray, c.srcXInBytes, c.srcY,
                       c.srcZ, c.srcPitch, c.srcHeight, c, from);
  if (r != CUDA_SUCCESS) return r;
  r = resolve(c.dstMemoryType, c.dstDevice, c.dstHost, c.dstArray, c.dstXInBytes, c.dstY, c.dstZ,
              c.dstPitch, c.dstHeight, c, to);
  if (r != CUDA_SUCCESS) return r;
  const Profile& p = machine.profile;
  cost_ns = cost_of(c.WidthInBytes * c.Height * c.Depth,
                    to.device && from.device ? p.device_bytes_per_us : p.host_bytes_per_us);
  driver().moved_bytes += c.WidthInBytes * c.Height * c.Depth;
  kind = to.device ? EntryKind::kFromHost : EntryKind::kToHost;
  if (to.device && from.device) kind = EntryKind::kWithin;
  if (!driver().moves_bytes) return CUDA_SUCCESS;
  for (std::size_t z = 0; z < c.Depth; ++z) {
    for (std::size_t y = 0; y < c.Height; ++y) {
      std::memmove(to.at + z * to.slice + y * to.pitch, from.at + z * from.slice + y * from.pitch,
                   c.WidthInBytes);
    }
  }
  return CUDA_SUCCESS;
}

CUresult perform_memset(const CUDA_MEMSET_NODE_PARAMS_v2& m, std::uint64_t& cost_ns) noexcept {
  const std::size_t row = m.width * m.elementSize;
  if (row == 0 || m.height == 0) return CUDA_SUCCESS;
  const std::size_t pitch = m.height > 1 ? m.pitch : row;
  const bool element = m.elementSize == 1 || m.elementSize == 2 || m.elementSize == 4;
  if (!element || m.dst % m.elementSize != 0 || pitch < row) return CUDA_ERROR_INVALID_VALUE;
  if (!device_span(m.dst, (m.height - 1) * pitch + row)) return CUDA_ERROR_INVALID_VALUE;
  cost_ns = cost_of(row * m.height, machine.profile.device_bytes_per_us);
  driver().moved_bytes += row * m.height;
  if (!driver().moves_bytes) return CUDA_SUCCESS;
  for (std::size_t y = 0; y < m.height; ++y) {
    char* at = reinterpret_cast<char*>(m.dst) + y * pitch;
    if (m.value == 0) {
      clear(at, row, private_pages(m.dst));
    } else {
      fill_row(at, m);
    }
  }
  return CUDA_SUCCESS;
}

}  // namespace bulkhead::sim
