// Arrays and mipmapped arrays. Their size is the driver's secret until one is made, so one is made without
// memory (deferred mapping), asked, and destroyed. docs/formats/charge.md.
#include "hook/array_size.h"
#include "hook/books.h"
#include "hook/next.h"

namespace bulkhead::hook {
namespace {

constexpr unsigned kSparse = 0x40;    // CUDA_ARRAY3D_SPARSE
constexpr unsigned kDeferred = 0x80;  // CUDA_ARRAY3D_DEFERRED_MAPPING

struct Need {
  std::uint64_t bytes = 0, align = 1;
};

// What the driver says the array needs; the bound of array_size.h where it does not say.
Need ask(const CUDA_ARRAY3D_DESCRIPTOR& desc, unsigned levels, CUdevice ordinal) noexcept {
  CUDA_ARRAY3D_DESCRIPTOR probe = desc;
  probe.Flags |= kDeferred;
  CUDA_ARRAY_MEMORY_REQUIREMENTS need{};
  bool said = false;
  if (levels == 0) {
    CUarray a = nullptr;
    if (next.cuArray3DCreate_v2(&a, &probe) == CUDA_SUCCESS) {
      said = next.cuArrayGetMemoryRequirements(&need, a, ordinal) == CUDA_SUCCESS;
      next.cuArrayDestroy(a);
    }
  } else {
    CUmipmappedArray m = nullptr;
    if (next.cuMipmappedArrayCreate(&m, &probe, levels) == CUDA_SUCCESS) {
      said = next.cuMipmappedArrayGetMemoryRequirements(&need, m, ordinal) == CUDA_SUCCESS;
      next.cuMipmappedArrayDestroy(m);
    }
  }
  if (said && need.size != 0) return {need.size, need.alignment == 0 ? 1 : need.alignment};
  return {array_bound(desc, levels), 1};
}

// What is paid, and how it is booked.
struct Paid {
  std::uint64_t bytes = 0;  // charged now
  ArrayBook::Place place;
  std::uint32_t node = 0;  // for a place
};

bool pay(Device& d, std::uint8_t tag, const Need& need, Paid& out) noexcept {
  const std::uint64_t unit = books.grain[d.number].array;
  if (need.bytes < unit && unit == kSlabBytes) {
    const auto units = units_of(round_up(need.bytes, std::uint64_t{1} << kUnitShift));
    const std::uint64_t align = round_up(need.align, std::uint64_t{1} << kUnitShift);
    out.place = books.arrays.place(tag, static_cast<std::uint8_t>(d.number), units,
                                   align < kSlabBytes ? units_of(align) : kSlabUnits);
    out.node = out.place.slab != 0 ? books.nodes.get() : 0;
    if (out.node != 0 && !out.place.opens) return true;
    if (out.node != 0 && charge(d, kSlabBytes)) {
      out.bytes = kSlabBytes;
      return true;
    }
    const bool refused = out.node != 0;
    if (out.place.slab != 0) static_cast<void>(books.arrays.remove(out.place));
    if (out.node != 0) books.nodes.put(out.node);
    out = Paid{};
    if (refused) return false;
    count(Count::kFault);  // the book is full: paid alone
  }
  out.bytes = round_up(need.bytes, unit);
  return out.bytes <= kMostBytes && charge(d, out.bytes);
}

// Takes a payment back: the array was not made.
void unpay(Device& d, const Paid& p) noexcept {
  if (p.node != 0) {
    books.nodes.put(p.node);
    if (books.arrays.remove(p.place)) give_back(d, kSlabBytes);
  } else {
    give_back(d, p.bytes);
  }
}

bool book(std::uint64_t key, Device& d, std::uint8_t tag, const Paid& p) noexcept {
  Value v{units_of(p.bytes), static_cast<std::uint8_t>(d.number), Kind::kArray, tag};
  if (p.node != 0) {
    Node& n = books.nodes[p.node];
    n.a = p.place.slab;
    n.b = std::uint64_t{p.place.from} << 32 | p.place.units;
    v.units = p.node;
    v.kind = Kind::kSmallArray;
  }
  return keep(key, v);
}

template <class Handle, class Call, class Destroy>
CUresult make(Handle* handle, const CUDA_ARRAY3D_DESCRIPTOR* desc, unsigned levels, Call call,
              Destroy destroy) noexcept {
  if (handle == nullptr || desc == nullptr || (desc->Flags & (kSparse | kDeferred)) != 0) {
    return call(handle);  // an error, or no memory of its own
  }
  const Here at = here();
  if (at.device == nullptr || !usable()) return unplaced([&] { return call(handle); });
  Device& d = *at.device;
  const std::uint8_t tag = books.contexts.tag(at.context);
  const Need need = ask(*desc, levels, d.ordinal);
  Paid paid;
  if (!pay(d, tag, need, paid)) return CUDA_ERROR_OUT_OF_MEMORY;
  Handle made = nullptr;
  const CUresult r = call(&made);
  if (r != CUDA_SUCCESS) {
    unpay(d, paid);
    return r;
  }
  if (!book(handle_key(made, Space::kArray), d, tag, paid)) {
    destroy(made);
    unpay(d, paid);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  count(Count::kAlloc);
  *handle = made;
  return r;
}

template <class Call>
CUresult destroy_booked(std::uint64_t key, Call call) noexcept {
  Value v;
  if (!books_ready() || !books.map.remove(key, v)) return call();
  const CUresult r = call();
  if (r != CUDA_SUCCESS) {
    restore(key, v);
    return r;
  }
  release_array(v);
  count(Count::kFree);
  return r;
}

template <class Desc>
CUDA_ARRAY3D_DESCRIPTOR widened(const Desc& d) noexcept {
  CUDA_ARRAY3D_DESCRIPTOR out{};
  out.Width = d.Width;
  out.Height = d.Height;
  out.Format = d.Format;
  out.NumChannels = d.NumChannels;
  if constexpr (requires { d.Depth; }) {
    out.Depth = d.Depth;
    out.Flags = d.Flags;
  }
  return out;
}

template <class Desc, class Call>
CUresult make_array(CUarray* handle, const Desc* desc, Call call) noexcept {
  CUDA_ARRAY3D_DESCRIPTOR wide{};
  if (desc != nullptr) wide = widened(*desc);
  return make(handle, desc != nullptr ? &wide : nullptr, 0, call,
              [](CUarray a) { next.cuArrayDestroy(a); });
}

}  // namespace

void release_array(const Value& v) noexcept {
  Device& d = numbered(v.device);
  if (v.kind != Kind::kSmallArray) return give_back(d, bytes_of(v.units));
  const Node& n = books.nodes[v.units];
  const ArrayBook::Place place{static_cast<std::uint32_t>(n.a),
                               static_cast<std::uint32_t>(n.b >> 32),
                               static_cast<std::uint32_t>(n.b), false};
  books.nodes.put(v.units);
  if (books.arrays.remove(place)) give_back(d, kSlabBytes);
}

CUresult cuArrayCreate_v2(CUarray* pHandle, const CUDA_ARRAY_DESCRIPTOR* pAllocateArray) noexcept {
  return make_array(pHandle, pAllocateArray,
                    [=](CUarray* a) { return next.cuArrayCreate_v2(a, pAllocateArray); });
}
CUresult cuArrayCreate(CUarray* pHandle, const CUDA_ARRAY_DESCRIPTOR_v1* pAllocateArray) noexcept {
  return make_array(pHandle, pAllocateArray,
                    [=](CUarray* a) { return next.cuArrayCreate(a, pAllocateArray); });
}
CUresult cuArray3DCreate_v2(CUarray* pHandle,
                            const CUDA_ARRAY3D_DESCRIPTOR* pAllocateArray) noexcept {
  return make_array(pHandle, pAllocateArray,
                    [=](CUarray* a) { return next.cuArray3DCreate_v2(a, pAllocateArray); });
}
CUresult cuArray3DCreate(CUarray* pHandle,
                         const CUDA_ARRAY3D_DESCRIPTOR_v1* pAllocateArray) noexcept {
  return make_array(pHandle, pAllocateArray,
                    [=](CUarray* a) { return next.cuArray3DCreate(a, pAllocateArray); });
}
CUresult cuMipmappedArrayCreate(CUmipmappedArray* pHandle,
                                const CUDA_ARRAY3D_DESCRIPTOR* pMipmappedArrayDesc,
                                unsigned int numMipmapLevels) noexcept {
  return make(
      pHandle, pMipmappedArrayDesc, numMipmapLevels,
      [=](CUmipmappedArray* m) {
        return next.cuMipmappedArrayCreate(m, pMipmappedArrayDesc, numMipmapLevels);
      },
      [](CUmipmappedArray m) { next.cuMipmappedArrayDestroy(m); });
}
CUresult cuArrayDestroy(CUarray hArray) noexcept {
  return destroy_booked(handle_key(hArray, Space::kArray),
                        [=] { return next.cuArrayDestroy(hArray); });
}
CUresult cuMipmappedArrayDestroy(CUmipmappedArray hMipmappedArray) noexcept {
  return destroy_booked(handle_key(hMipmappedArray, Space::kArray),
                        [=] { return next.cuMipmappedArrayDestroy(hMipmappedArray); });
}

}  // namespace bulkhead::hook
