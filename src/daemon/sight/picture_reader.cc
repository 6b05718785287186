#include "daemon/sight/picture_reader.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

namespace bulkhead::daemon {
namespace {

constexpr int kTries = 8;  // a turn of the writer takes microseconds, a reader comes each second

template <std::size_t N>
void end_text(char (&text)[N]) {
  text[N - 1] = 0;
}

// The picture is the daemon's own, but the child trusts no count and no text that it is going to walk along.
void make_safe(wire::Picture& p) {
  p.devices = std::min<std::uint32_t>(p.devices, wire::kMaxDevices);
  p.tenants = std::min<std::uint32_t>(p.tenants, wire::kPictureTenants);
  p.strays = std::min<std::uint32_t>(p.strays, wire::kPictureStrays);
  p.event_count = std::min<std::uint32_t>(p.event_count, wire::kPictureEvents);
  p.event_count =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(p.event_count, p.next_event_id));
  end_text(p.daemon.version);
  for (std::uint32_t i = 0; i < p.devices; ++i) end_text(p.device[i].name);
  for (std::uint32_t i = 0; i < p.strays; ++i) {
    end_text(p.stray[i].command);
    end_text(p.stray[i].tenant);
  }
  for (wire::EventView& e : p.event) {
    end_text(e.tenant);
    end_text(e.text);
  }
  for (std::uint32_t i = 0; i < p.tenants; ++i) {
    end_text(p.tenant[i].name);
    end_text(p.tenant[i].mps_group);
    p.tenant[i].device_count = std::min<std::uint32_t>(p.tenant[i].device_count, wire::kMaxDevices);
  }
}

}  // namespace

Status PictureReader::open(int fd) {
  struct stat st {};
  if (::fstat(fd, &st) != 0) return Status{Errc::kIo, errno, "stat picture"};
  if (st.st_size != static_cast<off_t>(sizeof(wire::Picture)))
    return Status{Errc::kBadSize, 0, "picture of another size"};
  void* const at = ::mmap(nullptr, sizeof(wire::Picture), PROT_READ, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) return Status{Errc::kIo, errno, "map picture"};
  map_ = Mapping{at, sizeof(wire::Picture)};
  copy_ = std::make_unique<wire::Picture>();
  next_ = std::make_unique<wire::Picture>();
  return {};
}

// Only what is in use is copied: a node of few tenants costs a few KiB a second, not 1.8 MiB.
bool PictureReader::take() {
  const auto* from = map_.as<const wire::Picture>();
  constexpr std::size_t kHead = offsetof(wire::Picture, tenant);
  constexpr std::size_t kAfterWord = offsetof(wire::Picture, magic);
  for (int i = 0; i < kTries; ++i) {
    const std::uint64_t began = from->sequence.begin_read();
    if ((began & 1) != 0) continue;
    if (began == sequence_ && has_) return false;
    std::memcpy(reinterpret_cast<char*>(next_.get()) + kAfterWord,
                reinterpret_cast<const char*>(from) + kAfterWord, kHead - kAfterWord);
    const std::size_t tenants = std::min<std::size_t>(next_->tenants, wire::kPictureTenants);
    std::memcpy(next_->tenant, from->tenant, tenants * sizeof(wire::TenantView));
    if (from->sequence.torn(began)) continue;
    if (next_->magic != wire::kPictureMagic || next_->bytes != sizeof(wire::Picture)) return false;
    make_safe(*next_);
    sequence_ = began;
    return true;
  }
  ++torn_;
  return false;
}

bool PictureReader::refresh(std::uint64_t mono_ns) {
  if (!take()) return false;
  std::swap(copy_, next_);
  has_ = true;
  changed_ns_ = mono_ns;
  return true;
}

bool PictureReader::fresh(std::uint64_t mono_ns) const {
  return has_ && mono_ns - changed_ns_ < kStale_ns;
}

}  // namespace bulkhead::daemon
