#include "hook/audit_lanes.h"

#include <linux/futex.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <new>
#include <utility>

#include "base/clock.h"
#include "base/fd.h"
#include "hook/audit_mode.h"
#include "hook/process.h"
#include "hook/resolve.h"
#include "shm/dir.h"
#include "shm/files.h"
#include "wire/client.h"
#include "wire/messages.h"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace bulkhead::hook {

thread_local constinit ThreadLane* my_lane = nullptr;
constinit const shm::Bell* bell = nullptr;

namespace {

constexpr int kConnect_ms = 1000;
constexpr int kAnswer_ms = 5000;  // cold: once a thread
constexpr std::uint64_t kPatience_ns = 2'000'000'000;
constexpr std::uint64_t kAskAgain_ns = 1'000'000'000;
constexpr std::uint64_t kFirstSlots = 8192;  // made present with the lane

// Zeroed in a fork's child by the kernel.
struct Table {
  ThreadLane lanes[shm::kLanes];
  const shm::LanePage* page;
  unsigned own;                // lanes[0..own) exist
  bool no_more;                // the daemon has no further lane for us
  std::uint64_t ask_again_ns;  // not before
};
constinit Table* table = nullptr;  // under `claiming`
constinit PrivateLock claiming{};
constinit pthread_key_t leaving{};
constinit bool has_key = false;
// Lanes whose pages are not all asked for; without the lock, which may be held for as long as a daemon takes.
constinit std::atomic<shm::Lane*> sparse[shm::kOwnLanes]{};

struct Given {
  wire::LaneReply reply{};
  UniqueFd fds[wire::kMostDescriptors];
};

Status ask(std::uint32_t flags, Given& out) noexcept {
  Result<shm::Dir> dir = shm::open_dir(shm::dir_options(on_simulator(), false));
  if (!dir.ok()) return dir.status();
  struct stat st {};
  if (!shm::stat_fd(dir->fd.get(), st)) return Status{Errc::kIo, 0, "cannot look at the directory"};
  Result<wire::Client> client = wire::Client::connect(dir->fd.get(), st.st_uid, kConnect_ms);
  if (!client.ok()) return client.status();
  wire::LaneRequest request{};
  wire::put_text(request.name, settings().tenant);
  request.flags = flags;
  const Process& p = process;
  request.device_count = static_cast<std::uint32_t>(p.device_count);
  for (int i = 0; i < p.device_count; ++i) {
    std::memcpy(request.devices[i], p.devices[i].uuid.bytes, sizeof request.devices[i]);
  }
  const std::uint32_t sequence = client->next_sequence();
  wire::begin(request, wire::Kind::kLane, sequence);
  if (const Status bad = client->send(&request, sizeof request, kConnect_ms); !bad.ok()) return bad;
  unsigned count = 0;
  const auto got = client->receive_with(&out.reply, sizeof out.reply, wire::Kind::kLane, sequence,
                                        kAnswer_ms, out.fds, wire::kMostDescriptors, count);
  if (!got.ok()) return got.status();
  if (out.reply.header.result != 0) {
    return Status{static_cast<Errc>(out.reply.header.result), 0, "the daemon gives no lane"};
  }
  if (*got != sizeof out.reply ||
      count != static_cast<unsigned>(__builtin_popcount(out.reply.given))) {
    return Status{Errc::kInvalid, 0, "a reply without its descriptors"};
  }
  return Status{};
}

// Of all of it, for as long as the process lives. A fork's child does not get it.
void* map(const UniqueFd& fd, std::size_t bytes, int protection) noexcept {
  void* const at = ::mmap(nullptr, bytes, protection, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) return nullptr;
  ::madvise(at, bytes, MADV_DONTFORK);
  return at;
}

// The pages of the first slots, in one call: else each 64th entry of the first round waits for a fault. What a kernel without it (before
// 5.14) refuses comes by faults.
void make_present(shm::Lane& lane, std::uint64_t slots) noexcept {
  ::madvise(&lane, sizeof lane.header + slots * sizeof(shm::LaneSlot), MADV_POPULATE_WRITE);
}

bool put_lane(unsigned index, const UniqueFd& fd) noexcept {
  if (index >= shm::kLanes || table->page == nullptr) return false;
  void* const at = map(fd, sizeof(shm::Lane), PROT_READ | PROT_WRITE);
  if (at == nullptr) return false;
  ThreadLane& lane = table->lanes[index];
  lane.end = shm::adopt_lane(*static_cast<shm::Lane*>(at), table->page->cells[index]);
  lane.marked = lane.end.next;
  lane.shared = index == shm::kSharedLane;
  if (!lane.shared) {
    make_present(*lane.end.lane, kFirstSlots);
    sparse[index].store(lane.end.lane, std::memory_order_release);  // pairs with lanes_second()
  }
  return true;
}

// The descriptors come in the order of the bits.
bool take(Given& given) noexcept {
  const UniqueFd* fd = given.fds;
  const std::uint32_t bits = given.reply.given;
  if ((bits & wire::kGivenBell) != 0) {
    const void* const at = map(*fd++, sizeof(shm::Bell), PROT_READ);
    if (at == nullptr) return false;
    bell = static_cast<const shm::Bell*>(at);
  }
  if ((bits & wire::kGivenPage) != 0) {
    const void* const at = map(*fd++, sizeof(shm::LanePage), PROT_READ);
    if (at == nullptr) return false;
    table->page = static_cast<const shm::LanePage*>(at);
  }
  if ((bits & wire::kGivenShared) != 0 && !put_lane(shm::kSharedLane, *fd++)) return false;
  if ((bits & wire::kGivenOwn) == 0) {
    table->no_more = true;
    return true;
  }
  if (given.reply.lane != table->own || !put_lane(table->own, *fd)) return false;
  ++table->own;
  return true;
}

bool ready() noexcept {
  if (table != nullptr) return true;
  void* const at =
      ::mmap(nullptr, sizeof(Table), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return false;
  ::madvise(at, sizeof(Table), MADV_WIPEONFORK);
  table = static_cast<Table*>(at);  // zeroes are a Table without lanes
  return true;
}

// Whether a thread that did not come through left() is gone all the same.
bool gone(std::uint32_t tid) noexcept {
  return ::syscall(SYS_tgkill, ::getpid(), tid, 0) != 0 && errno == ESRCH;
}

ThreadLane* from_pool(std::uint32_t me) noexcept {
  for (unsigned i = 0; i < table->own; ++i) {
    ThreadLane& lane = table->lanes[i];
    if (lane.tid != 0 && !gone(lane.tid)) continue;
    lane.end = shm::adopt_lane(*lane.end.lane, *lane.end.cell);
    lane.plain_until = 0;
    lane.tid = me;
    return &lane;
  }
  return nullptr;
}

bool ask_for_one(bool patient) noexcept {
  const std::uint64_t began = monotonic_ns();
  if (began < table->ask_again_ns) return false;
  for (;;) {
    const bool first = table->page == nullptr;
    if (first) {  // so that the writer's barrier reaches us (lane.md, "Sleeping"); may fail
      ::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0);
    }
    Given given;
    const Status s =
        ask((first ? wire::kLaneFirst : 0u) | (patient ? wire::kLaneEnforce : 0u), given);
    if (s.ok()) return take(given);
    const bool may_come = s.code() == Errc::kNotReady || s.code() == Errc::kNotFound;
    if (!may_come || !patient || monotonic_ns() - began > kPatience_ns) {
      if (s.code() == Errc::kFull) table->no_more = true;
      table->ask_again_ns = monotonic_ns() + kAskAgain_ns;
      return false;
    }
    const timespec pause{0, 20'000'000};
    ::nanosleep(&pause, nullptr);
  }
}

void left(void* lane) noexcept {
  const Held held{claiming};
  my_lane = nullptr;  // a later destructor that transfers asks again
  static_cast<ThreadLane*>(lane)->tid = 0;
}

ThreadLane* claim_locked(bool patient) noexcept {
  if (!ready()) return nullptr;
  if (!has_key) has_key = ::pthread_key_create(&leaving, left) == 0;
  const auto me = static_cast<std::uint32_t>(::syscall(SYS_gettid));
  ThreadLane* own = from_pool(me);
  if (own == nullptr && table->own < shm::kOwnLanes && !table->no_more && ask_for_one(patient)) {
    own = from_pool(me);
  }
  if (own != nullptr) {
    if (has_key) ::pthread_setspecific(leaving, own);
    return own;
  }
  ThreadLane& shared = table->lanes[shm::kSharedLane];
  return shared.end.lane != nullptr ? &shared : nullptr;
}

}  // namespace

ThreadLane* claim_lane(bool patient) noexcept {
  const Undisturbed keep;
  const bool was_inside = inside;
  inside = true;
  {
    const Held held{claiming};
    my_lane = claim_locked(patient);
  }
  inside = was_inside;
  return my_lane;
}

void lanes_second() noexcept {
  for (auto& place : sparse) {
    // acquire pairs with put_lane(); a lane stays mapped
    shm::Lane* const lane = place.load(std::memory_order_acquire);
    // relaxed, both: a hint; the own thread's
    if (lane == nullptr || lane->header.head.load(std::memory_order_relaxed) < kFirstSlots / 4)
      continue;
    place.store(nullptr, std::memory_order_relaxed);
    make_present(*lane, shm::kLaneSlots);
  }
}

Status lanes_answer() noexcept {
  const Undisturbed keep;
  const bool was_inside = inside;
  inside = true;
  Given given;
  const std::uint64_t began = monotonic_ns();
  Status s = ask(wire::kLaneProbe, given);
  while ((s.code() == Errc::kNotReady || s.code() == Errc::kNotFound) &&
         monotonic_ns() - began < kPatience_ns) {
    const timespec pause{0, 20'000'000};
    ::nanosleep(&pause, nullptr);
    s = ask(wire::kLaneProbe, given);
  }
  inside = was_inside;
  return s;
}

void lanes_forked_child() noexcept {
  my_lane = nullptr;
  bell = nullptr;
  // relaxed: the child has one thread
  for (auto& place : sparse) place.store(nullptr, std::memory_order_relaxed);
  // by the kernel already, where it knows MADV_WIPEONFORK
  if (table != nullptr) std::memset(static_cast<void*>(table), 0, sizeof *table);
}

void wake_writer() noexcept {
  const int saved = errno;
  // relaxed: the kernel looks the word up by its address alone
  ::syscall(SYS_futex, &bell->asleep, FUTEX_WAKE, 1, nullptr, nullptr, 0);
  errno = saved;
}

}  // namespace bulkhead::hook
