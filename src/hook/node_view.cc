#include "hook/node_view.h"

#include <sys/mman.h>

#include "hook/process.h"
#include "hook/resolve.h"
#include "shm/dir.h"

namespace bulkhead::hook {
namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

struct Seen {
  std::atomic<const shm::NodePage*> page{nullptr};
  PrivateLock mapping{};
  std::uint32_t adopted = 0;  // `adopted` when the page was mapped; under `mapping`
};
constinit Seen view_of_node{};

// The old one goes and the new one comes in one step under the kernel's lock: a reader faults into one or the other.
void put(Mapping map) noexcept {
  Seen& v = view_of_node;
  // a fork's child maps it by itself: this one would stay in it for ever
  ::madvise(map.as<void>(), map.bytes(), MADV_DONTFORK);
  const shm::NodePage* const old = v.page.load(kRelaxed);  // under the lock
  const std::size_t bytes = map.bytes();
  void* const fresh = map.release();
  if (old == nullptr) {
    v.page.store(static_cast<const shm::NodePage*>(fresh),
                 std::memory_order_release);  // pairs with node_page()
  } else if (::mremap(fresh, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
                      const_cast<shm::NodePage*>(old)) == MAP_FAILED) {
    ::munmap(fresh, bytes);  // the old one stands
  }
}

}  // namespace

const shm::NodePage* node_page() noexcept {
  return view_of_node.page.load(std::memory_order_acquire);  // pairs with put()
}

void follow_node() noexcept {
  Seen& v = view_of_node;
  const Held held{v.mapping};
  // acquire pairs with raise_adopted(): the page is in its place
  const std::uint32_t adopted = process.region->header.adopted.load(std::memory_order_acquire);
  if (node_page() != nullptr && adopted == v.adopted) return;
  Result<shm::Dir> dir = shm::open_dir(shm::dir_options(on_simulator(), false));
  if (!dir.ok() || (adopted == 0 && !dir->authoritative)) return;
  Result<Mapping> map = shm::map_node(*dir);
  if (!map.ok()) return;
  put(std::move(*map));
  v.adopted = adopted;
}

void forget_node() noexcept {
  view_of_node.page.store(nullptr, kRelaxed);  // the child has one thread
  view_of_node.adopted = 0;
}

}  // namespace bulkhead::hook
