#include "sim/backing.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <new>

#include "base/fd.h"
#include "sim/model.h"

namespace bulkhead::sim {
namespace {

constexpr std::size_t kAlign = 2u << 20;

void* at(CUdeviceptr p) noexcept { return reinterpret_cast<void*>(p); }

// Reserves one alignment too much and cuts the ends off.
CUdeviceptr map_aligned(std::size_t bytes, std::size_t align, int protection) noexcept {
  void* raw = ::mmap(nullptr, bytes + align, protection,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) return 0;
  const auto start = reinterpret_cast<CUdeviceptr>(raw);
  const CUdeviceptr base = round_up(start, align);
  if (base != start) ::munmap(raw, base - start);
  const CUdeviceptr end = start + bytes + align;
  if (end != base + bytes) ::munmap(at(base + bytes), end - base - bytes);
  return base;
}

// Copies the pages that were ever written: the rest of a new file reads as zero already. Which ones
// they are is in /proc/self/pagemap (bit 63 present, bit 62 swapped), one word a page.
bool copy_touched(const Segment& s, int fd) noexcept {
  constexpr std::size_t kPage = 4096, kBatch = 512;
  const UniqueFd pagemap{::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)};
  std::uint64_t words[kBatch];
  for (std::size_t done = 0; done < s.bytes; done += kPage * kBatch) {
    const std::size_t pages = (s.bytes - done) / kPage < kBatch ? (s.bytes - done) / kPage : kBatch;
    const auto offset = static_cast<off_t>((s.base + done) / kPage * sizeof words[0]);
    const bool known =
        pagemap.ok() && ::pread(pagemap.get(), words, pages * sizeof words[0], offset) ==
                            static_cast<ssize_t>(pages * sizeof words[0]);
    for (std::size_t i = 0; i < pages; ++i) {
      if (known && (words[i] >> 62) == 0) continue;
      const std::size_t where = done + i * kPage;
      if (::pwrite(fd, at(s.base + where), kPage, static_cast<off_t>(where)) != kPage) return false;
    }
  }
  return true;
}

}  // namespace

CUdeviceptr map_pages(std::size_t bytes, int fd) noexcept {
  const CUdeviceptr base = map_aligned(bytes, kAlign, PROT_READ | PROT_WRITE);
  if (base == 0 || fd < 0) return base;
  if (::mmap(at(base), bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd,
             0) == MAP_FAILED) {
    ::munmap(at(base), bytes);
    return 0;
  }
  return base;
}

CUdeviceptr reserve_pages(std::size_t bytes, std::size_t align, CUdeviceptr hint) noexcept {
  if (hint != 0) {
    void* got = ::mmap(at(hint), bytes, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (got == at(hint)) return hint;
    if (got != MAP_FAILED) ::munmap(got, bytes);  // an old kernel takes the flag for a hint
  }
  return map_aligned(bytes, align > kAlign ? align : kAlign, PROT_NONE);
}

void unmap_pages(CUdeviceptr base, std::size_t bytes) noexcept { ::munmap(at(base), bytes); }

bool take_bytes(unsigned unit, std::uint64_t bytes, Part part) noexcept {
  if (take(unit, bytes, part)) return true;
  trim_pools(unit);
  return take(unit, bytes, part);
}

Segment* take_segment(unsigned unit, std::size_t bytes, Part part) noexcept {
  if (!take_bytes(unit, bytes, part)) return nullptr;
  const CUdeviceptr base = map_pages(bytes, -1);
  Segment* s = base != 0 ? new (std::nothrow) Segment{base, bytes, unit, 0, part} : nullptr;
  if (s == nullptr) {
    if (base != 0) unmap_pages(base, bytes);
    give(unit, bytes, part);
  }
  return s;
}

void drop_segment(Segment* s) noexcept {
  unmap_pages(s->base, s->bytes);
  if (s->object != 0) {
    drop_object(s->object);
  } else {
    give(s->unit, s->bytes, s->part);
  }
  delete s;
}

bool share_segment(Segment& s) noexcept {
  if (s.object != 0) return true;
  if (s.part != Part::kShown) return false;
  const std::uint64_t id = create_object(s.unit, s.bytes, true, true, 0);
  if (id == 0) return false;
  char path[320];
  object_path(id, path);
  const UniqueFd fd{::open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
  bool ok = fd.ok() && ::ftruncate(fd.get(), static_cast<off_t>(s.bytes)) == 0;
  ok = ok && copy_touched(s, fd.get());
  ok = ok && ::mmap(at(s.base), s.bytes, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_FIXED | MAP_NORESERVE, fd.get(), 0) != MAP_FAILED;
  if (!ok) {
    drop_object(id);
    give(s.unit, 0 - s.bytes);  // takes the bytes back; they were ours a moment ago
    return false;
  }
  bind_object(id, fd.get());
  s.object = id;
  return true;
}

}  // namespace bulkhead::sim
