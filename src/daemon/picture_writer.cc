#include "daemon/picture_writer.h"

#include <unistd.h>

#include <algorithm>

#include "daemon/pidfd.h"

namespace bulkhead::daemon {
namespace {

template <class T, std::size_t N>
std::uint32_t put(const std::function<std::vector<T>()>& from, T (&to)[N]) {
  if (!from) return 0;
  const std::vector<T> all = from();
  const std::size_t count = std::min(all.size(), N);
  std::copy_n(all.begin(), count, to);
  return static_cast<std::uint32_t>(count);
}

}  // namespace

Status PictureWriter::open() {
  auto made = make_sealed("bulkhead-picture", sizeof(wire::Picture));
  if (!made.ok()) return made.status();
  sealed_ = std::move(*made);
  return Status{};
}

int PictureWriter::tick(const Now& now) {
  if (!sealed_.fd.ok()) return -1;
  if (now.mono_ns >= next_ns_) {
    write(now);
    next_ns_ = now.mono_ns + 1'000'000'000;
  }
  return static_cast<int>((next_ns_ - now.mono_ns + 999'999) / 1'000'000);
}

void PictureWriter::write(const Now& now) {
  wire::Picture& p = *sealed_.map.as<wire::Picture>();
  p.sequence.begin_write();
  p.magic = wire::kPictureMagic;
  p.bytes = sizeof(wire::Picture);
  p.unix_ns = now.unix_ns;
  p.devices = put(providers.devices, p.device);
  p.strays = put(providers.strays, p.stray);
  p.tenants = put(providers.tenants, p.tenant);
  p.next_event_id = providers.next_event_id ? providers.next_event_id() : 1;
  p.event_count = 0;
  if (providers.events) {
    const std::uint64_t first =
        p.next_event_id > wire::kPictureEvents ? p.next_event_id - wire::kPictureEvents : 1;
    std::uint32_t lost = 0;
    for (const wire::EventView& e : providers.events(first - 1, wire::kPictureEvents, lost)) {
      p.event[e.id % wire::kPictureEvents] = e;
      ++p.event_count;
    }
  }
  if (providers.daemon) providers.daemon(p.daemon);
  const SelfUse use = self_use();
  p.daemon.pid = static_cast<std::uint32_t>(::getpid());
  p.daemon.uid = ::geteuid();
  p.daemon.cpu_ns = use.cpu_ns;
  p.daemon.rss_bytes = use.rss_bytes;
  p.sequence.end_write();
}

}  // namespace bulkhead::daemon
