#include "sim/array.h"

#include <algorithm>
#include <bit>
#include <new>

#include "sim/api.h"
#include "sim/family.h"

namespace bulkhead::sim {
namespace {

enum Flag : unsigned { kLayered = 1, kCubemap = 4, kSparse = 0x40, kDeferred = 0x80 };

std::unordered_set<Array*>& arrays() noexcept {
  static auto* set = new std::unordered_set<Array*>;
  return *set;
}
std::unordered_set<Mipmap*>& mipmaps() noexcept {
  static auto* set = new std::unordered_set<Mipmap*>;
  return *set;
}

std::size_t channel_bytes(CUarray_format f) noexcept {
  switch (f) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
      return 1;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
      return 2;
    case CU_AD_FORMAT_UNSIGNED_INT32:
    case CU_AD_FORMAT_SIGNED_INT32:
    case CU_AD_FORMAT_FLOAT:
      return 4;
    default:
      return 0;  // packed, block-compressed and video formats are not modelled
  }
}

CUresult check(const CUDA_ARRAY3D_DESCRIPTOR& d) noexcept {
  const bool channels = d.NumChannels == 1 || d.NumChannels == 2 || d.NumChannels == 4;
  const bool sized = d.Width != 0 && d.Width <= 1u << 17 && d.Height <= 1u << 17 && d.Depth <= 1u << 14;
  if (!channels || !sized) return CUDA_ERROR_INVALID_VALUE;
  return channel_bytes(d.Format) != 0 ? CUDA_SUCCESS : CUDA_ERROR_NOT_SUPPORTED;
}

// Whole granules, or a place in the array slabs.
bool take_memory(Context& c, std::size_t bytes, CUdeviceptr& at, Segment*& segment) noexcept {
  const Profile& p = machine.profile;
  if (bytes < p.granularity_bytes) {
    if (c.array_slabs == nullptr) {
      c.array_slabs = new (std::nothrow) Arena(c.unit, p.array_unit_bytes, p.granularity_bytes);
    }
    at = c.array_slabs->allocate(bytes);
    return at != 0;
  }
  segment = take_segment(c.unit, round_up(bytes, p.granularity_bytes));
  at = segment != nullptr ? segment->base : 0;
  return at != 0;
}

void give_memory(Context& c, CUdeviceptr at, Segment* segment) noexcept {
  if (segment != nullptr) {
    drop_segment(segment);
  } else if (at != 0 && c.array_slabs != nullptr) {
    c.array_slabs->free(at);
  }
}

void destroy(Array* a) noexcept {
  if (a->parent == nullptr) give_memory(*a->context, a->at, a->segment);
  arrays().erase(a);
  delete a;
}

void destroy(Mipmap* m) noexcept {
  for (Array* level : m->levels) destroy(level);
  give_memory(*m->context, m->at, m->segment);
  mipmaps().erase(m);
  delete m;
}

CUresult create(CUarray* out, const CUDA_ARRAY3D_DESCRIPTOR& d) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (out == nullptr) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult r = check(d); r != CUDA_SUCCESS) return r;
  auto* a = new (std::nothrow) Array;
  if (a == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  a->desc = d;
  a->element_bytes = channel_bytes(d.Format) * d.NumChannels;
  a->context = call.context;
  const bool bare = (d.Flags & (kSparse | kDeferred)) != 0;
  if (!bare && !take_memory(*call.context, layout_bytes(d, a->element_bytes), a->at, a->segment)) {
    delete a;
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  arrays().insert(a);
  *out = reinterpret_cast<CUarray>(a);
  return CUDA_SUCCESS;
}

template <class To, class From>
To widen(const From& d) noexcept {
  To t{};
  t.Width = d.Width;
  t.Height = d.Height;
  t.Format = d.Format;
  t.NumChannels = d.NumChannels;
  return t;
}

CUDA_ARRAY3D_DESCRIPTOR level_of(CUDA_ARRAY3D_DESCRIPTOR d, unsigned level) noexcept {
  const auto half = [level](std::size_t n) { return n == 0 ? 0 : std::max<std::size_t>(n >> level, 1); };
  d.Width = half(d.Width);
  d.Height = half(d.Height);
  if ((d.Flags & (kLayered | kCubemap)) == 0) d.Depth = half(d.Depth);
  return d;
}

CUresult requirements(CUDA_ARRAY_MEMORY_REQUIREMENTS* out, unsigned flags, std::size_t bytes) noexcept {
  if (out == nullptr || (flags & kDeferred) == 0) return CUDA_ERROR_INVALID_VALUE;
  *out = {};
  out->alignment = machine.profile.array_unit_bytes;
  out->size = round_up(bytes, out->alignment);
  return CUDA_SUCCESS;
}

CUresult sparse(CUDA_ARRAY_SPARSE_PROPERTIES* out, unsigned flags, std::size_t element) noexcept {
  if (out == nullptr || (flags & kSparse) == 0) return CUDA_ERROR_INVALID_VALUE;
  *out = {};  // 64 KiB tiles, twice as wide as high at most
  const unsigned texels = static_cast<unsigned>((64u << 10) / element);
  out->tileExtent.height = 1u << ((std::bit_width(texels) - 1) / 2);
  out->tileExtent.width = texels / out->tileExtent.height;
  out->tileExtent.depth = 1;
  return CUDA_SUCCESS;
}

}  // namespace

Array* to_array(CUarray h) noexcept {
  auto* a = reinterpret_cast<Array*>(h);
  return arrays().contains(a) ? a : nullptr;
}
std::size_t row_bytes(const Array& a) noexcept { return a.desc.Width * a.element_bytes; }
std::size_t rows_of(const Array& a) noexcept { return std::max<std::size_t>(a.desc.Height, 1); }
std::size_t slices_of(const Array& a) noexcept { return std::max<std::size_t>(a.desc.Depth, 1); }

std::size_t layout_bytes(const CUDA_ARRAY3D_DESCRIPTOR& d, std::size_t element_bytes) noexcept {
  const std::size_t row = round_up(d.Width * element_bytes, 64);
  const bool layered = (d.Flags & (kLayered | kCubemap)) != 0;
  if (d.Height == 0) return row * (layered ? std::max<std::size_t>(d.Depth, 1) : 1);
  const auto block = [](std::size_t n, std::size_t most) { return std::min(most, std::bit_ceil(n)); };
  if (d.Depth != 0 && !layered) {
    return row * round_up(d.Height, 8) * round_up(d.Depth, block(d.Depth, 16));
  }
  const std::size_t rows = round_up(d.Height, std::max<std::size_t>(8, block(d.Height, 128)));
  return row * rows * std::max<std::size_t>(d.Depth, 1);
}

void release_arrays(Context& c) noexcept {
  std::vector<Mipmap*> maps;
  for (Mipmap* m : mipmaps()) {
    if (m->context == &c) maps.push_back(m);
  }
  for (Mipmap* m : maps) destroy(m);
  std::vector<Array*> left;
  for (Array* a : arrays()) {
    if (a->context == &c) left.push_back(a);
  }
  for (Array* a : left) destroy(a);
  delete c.array_slabs;
  c.array_slabs = nullptr;
}

CUresult api::cuArray3DCreate_v2(CUarray* pHandle, const CUDA_ARRAY3D_DESCRIPTOR* d) noexcept {
  return d == nullptr ? CUDA_ERROR_INVALID_VALUE : create(pHandle, *d);
}
CUresult api::cuArrayCreate_v2(CUarray* pHandle, const CUDA_ARRAY_DESCRIPTOR* d) noexcept {
  return d == nullptr ? CUDA_ERROR_INVALID_VALUE : create(pHandle, widen<CUDA_ARRAY3D_DESCRIPTOR>(*d));
}
CUresult api::cuArrayCreate(CUarray* pHandle, const CUDA_ARRAY_DESCRIPTOR_v1* d) noexcept {
  return d == nullptr ? CUDA_ERROR_INVALID_VALUE : create(pHandle, widen<CUDA_ARRAY3D_DESCRIPTOR>(*d));
}
CUresult api::cuArray3DCreate(CUarray* pHandle, const CUDA_ARRAY3D_DESCRIPTOR_v1* d) noexcept {
  if (d == nullptr) return CUDA_ERROR_INVALID_VALUE;
  auto wide = widen<CUDA_ARRAY3D_DESCRIPTOR>(*d);
  wide.Depth = d->Depth;
  wide.Flags = d->Flags;
  return create(pHandle, wide);
}

CUresult api::cuArrayDestroy(CUarray hArray) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  Array* a = to_array(hArray);
  if (a == nullptr || a->parent != nullptr) return CUDA_ERROR_INVALID_HANDLE;
  wait_for_all(call.context);
  destroy(a);
  return CUDA_SUCCESS;
}

CUresult api::cuArray3DGetDescriptor_v2(CUDA_ARRAY3D_DESCRIPTOR* d, CUarray hArray) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Array* a = to_array(hArray);
  if (a == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (d == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *d = a->desc;
  return CUDA_SUCCESS;
}
CUresult api::cuArrayGetDescriptor_v2(CUDA_ARRAY_DESCRIPTOR* d, CUarray hArray) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Array* a = to_array(hArray);
  if (a == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  if (d == nullptr) return CUDA_ERROR_INVALID_VALUE;
  *d = widen<CUDA_ARRAY_DESCRIPTOR>(a->desc);
  return CUDA_SUCCESS;
}

CUresult api::cuArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS* out, CUarray array,
                                           CUdevice device) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Array* a = to_array(array);
  if (a == nullptr || !valid_device(device)) return CUDA_ERROR_INVALID_VALUE;
  return requirements(out, a->desc.Flags, layout_bytes(a->desc, a->element_bytes));
}

CUresult api::cuArrayGetSparseProperties(CUDA_ARRAY_SPARSE_PROPERTIES* out, CUarray array) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  const Array* a = to_array(array);
  return a == nullptr ? CUDA_ERROR_INVALID_VALUE : sparse(out, a->desc.Flags, a->element_bytes);
}

CUresult api::cuMipmappedArrayCreate(CUmipmappedArray* pHandle, const CUDA_ARRAY3D_DESCRIPTOR* d,
                                     unsigned int numMipmapLevels) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (pHandle == nullptr || d == nullptr || numMipmapLevels == 0) return CUDA_ERROR_INVALID_VALUE;
  if (const CUresult r = check(*d); r != CUDA_SUCCESS) return r;
  const std::size_t longest = std::max({d->Width, d->Height, d->Depth});
  const unsigned levels = std::min<unsigned>(numMipmapLevels, static_cast<unsigned>(std::bit_width(longest)));
  auto* m = new (std::nothrow) Mipmap;
  if (m == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  m->desc = *d;
  m->element_bytes = channel_bytes(d->Format) * d->NumChannels;
  m->context = call.context;
  std::vector<std::size_t> offsets;
  for (unsigned i = 0; i < levels; ++i) {
    offsets.push_back(m->bytes);
    m->bytes += layout_bytes(level_of(*d, i), m->element_bytes);
  }
  const bool bare = (d->Flags & (kSparse | kDeferred)) != 0;
  if (!bare && !take_memory(*call.context, m->bytes, m->at, m->segment)) {
    delete m;
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  for (unsigned i = 0; i < levels; ++i) {
    auto* level = new (std::nothrow) Array{level_of(*d, i), m->element_bytes, call.context,
                                           m->at != 0 ? m->at + offsets[i] : 0, nullptr, m};
    arrays().insert(level);
    m->levels.push_back(level);
  }
  mipmaps().insert(m);
  *pHandle = reinterpret_cast<CUmipmappedArray>(m);
  return CUDA_SUCCESS;
}

CUresult api::cuMipmappedArrayDestroy(CUmipmappedArray h) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  auto* m = reinterpret_cast<Mipmap*>(h);
  if (!mipmaps().contains(m)) return CUDA_ERROR_INVALID_HANDLE;
  wait_for_all(call.context);
  destroy(m);
  return CUDA_SUCCESS;
}

CUresult api::cuMipmappedArrayGetLevel(CUarray* out, CUmipmappedArray h, unsigned int level) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  auto* m = reinterpret_cast<Mipmap*>(h);
  if (!mipmaps().contains(m)) return CUDA_ERROR_INVALID_HANDLE;
  if (out == nullptr || level >= m->levels.size()) return CUDA_ERROR_INVALID_VALUE;
  *out = reinterpret_cast<CUarray>(m->levels[level]);
  return CUDA_SUCCESS;
}

CUresult api::cuMipmappedArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS* out,
                                                    CUmipmappedArray h, CUdevice device) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  const auto* m = reinterpret_cast<Mipmap*>(h);
  if (!mipmaps().contains(const_cast<Mipmap*>(m)) || !valid_device(device)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  return requirements(out, m->desc.Flags, m->bytes);
}

CUresult api::cuMipmappedArrayGetSparseProperties(CUDA_ARRAY_SPARSE_PROPERTIES* out,
                                                  CUmipmappedArray h) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  auto* m = reinterpret_cast<Mipmap*>(h);
  if (!mipmaps().contains(m)) return CUDA_ERROR_INVALID_VALUE;
  return sparse(out, m->desc.Flags, m->element_bytes);
}

// Memory for sparse and deferred arrays is made by cuMemCreate and charged there; which tiles it backs is
// not modelled, so there is nothing to do.
CUresult api::cuMemMapArrayAsync(CUarrayMapInfo* mapInfoList, unsigned int count,
                                 CUstream hStream) noexcept {
  const Call call{Need::kContext};
  if (call.result != CUDA_SUCCESS) return call.result;
  if (to_stream(hStream, call.context) == nullptr) return CUDA_ERROR_INVALID_HANDLE;
  return mapInfoList == nullptr || count == 0 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

}  // namespace bulkhead::sim
